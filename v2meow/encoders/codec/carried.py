"""What decoding a part of a piece leaves for the next part, found again by the codes that led to it.

So a call for a part stays a function of its codes alone: with nothing carried it gives the same, only later.
"""

import hashlib
from collections import OrderedDict
from typing import Generic, TypeVar

from torch import Tensor

State = TypeVar("State")
_PIECES = 64  # streamed at once without starting over; a state has some ten kilobytes


class Carried(Generic[State]):
    """The states of the last parts. One that was pushed out costs its caller time, never a different result."""

    def __init__(self) -> None:
        self._states: OrderedDict[tuple[tuple[int, ...], bytes], State] = OrderedDict()

    def after(self, codes: Tensor) -> State | None:
        """The state that exactly these codes left, if it is still here."""
        return self._states.get(_key(codes))

    def keep(self, codes: Tensor, state: State) -> None:
        """Remember what these codes left."""
        self._states[_key(codes)] = state
        while len(self._states) > _PIECES:
            self._states.popitem(last=False)


def _key(codes: Tensor) -> tuple[tuple[int, ...], bytes]:
    return tuple(codes.shape), hashlib.sha256(codes.cpu().contiguous().numpy().tobytes()).digest()
