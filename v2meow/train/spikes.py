"""Steps whose loss or gradient is no number, or whose gradient is far larger than those before: are they to be made?

The answer follows from the loss curve alone, which checkpoints keep. So a training that goes on from one decides as if
it had never stopped, and all workers, who know the same curve, decide alike. Runs with torch alone.
"""

import math
from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

from v2meow.config import TrainConfig
from v2meow.train.state import TrainState
from v2meow.train.workers import is_cut

IN_A_ROW = 10  # updates that may be left out one after the other: more are no accident
_WINDOW = 100  # accepted steps whose median norm is the measure
_KNOWN = 20  # norms below which there is no measure yet: the first ones fall fast

Point = dict[str, Any]  # of the loss curve: step, loss, gradient_norm (None: no number), and skipped where it was


class TrainingError(ValueError):
    """Training that cannot go on; the message names the stage and the step."""


class RollBack(Exception):  # noqa: N818
    """No error: the state has to go back, to come by `step` again without its update."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


class SpikeGuard:
    """Decides for each step of `stage`, in their order, whether its update is made: see TrainConfig."""

    def __init__(self, stage: str, config: TrainConfig | None = None) -> None:
        self._stage, self._config = stage, config or TrainConfig()
        self.goes_back = self._config.on_spike == "roll back"
        self._left_out: set[int] = set()
        self._forget()

    def accepts(self, step: int, loss: float, norm: float) -> bool:
        """Whether the update of `step` is made. TrainingError where training ends, RollBack where it goes back."""
        wrong = self._wrong(loss, norm)
        made = wrong is None and step not in self._left_out
        if not made:
            self._refuse(step, wrong or "an update is left out")
        self._count(norm, made)
        return made

    def follow(self, curve: Sequence[Point]) -> bool:
        """Remember the steps of `curve`, as if they had just been made. False where it would have decided otherwise."""
        self._forget()
        for point in curve:
            loss, norm = (math.nan if point[key] is None else point[key] for key in ("loss", "gradient_norm"))
            made, wrong = not point.get("skipped"), self._wrong(loss, norm) is not None
            if wrong if made else not self._may_skip(wrong):
                return False
            self._count(norm, made)
        return True

    def go_back(self, step: int, curve: Sequence[Point]) -> None:
        """Be as after `curve`, and leave out the update of the later `step`."""
        self._left_out.add(step)
        self.follow(curve)

    def _forget(self) -> None:
        self._norms: deque[float] = deque(maxlen=_WINDOW)
        self._row = 0  # updates just left out, one after the other

    def _count(self, norm: float, made: bool) -> None:
        self._row = 0 if made else self._row + 1
        if made:
            self._norms.append(norm)

    def _wrong(self, loss: float, norm: float) -> str | None:
        for name, value in (("loss", loss), ("gradient norm", norm)):
            if not math.isfinite(value):
                return f"the {name} is {value}"
        factor = self._config.spike_factor
        if factor == 0 or len(self._norms) < _KNOWN:
            return None
        usual = median(self._norms)
        return f"the gradient norm is {norm:.3g}, usually {usual:.3g}," if norm > factor * usual else None

    def _may_skip(self, wrong: bool) -> bool:
        """A step that was gone back for need not have spiked again where arithmetic is not the same to the bit."""
        return self.goes_back or (self._config.on_spike == "skip" and wrong)

    def _refuse(self, step: int, wrong: str) -> None:
        mend = f"lower stages.{self._stage}.learning_rate"
        if self._config.on_spike == "stop":
            raise TrainingError(f"train {self._stage}: {wrong} at step {step}: {mend}")
        if self._row == IN_A_ROW:
            before = f"after {IN_A_ROW} updates that were left out"
            raise TrainingError(f"train {self._stage}: {wrong} at step {step}, {before}: {mend}")
        if self.goes_back and step not in self._left_out:
            raise RollBack(step)


class ReturnPoint:
    """A training's state as it was last kept, in this process's memory.

    It is what the newest checkpoint holds, or the beginning. Read from the storage, it could be another one for each
    worker: each learns at its own time that a checkpoint has arrived there.
    """

    def __init__(self, state: TrainState) -> None:
        state.ready()
        self.keep(state)

    def keep(self, state: TrainState) -> None:
        self._step = state.step
        self._tensors = {name: _own(tensor).to("cpu", copy=True) for name, tensor in state.tensors().items()}

    @torch.no_grad()
    def restore(self, state: TrainState) -> None:
        """Bring `state` back to what was kept, to the bit."""
        for name, tensor in state.tensors().items():
            _own(tensor).copy_(self._tensors[name])
        state.step = self._step


def _own(tensor: Tensor) -> Tensor:
    """This worker's part of the tensor."""
    return (tensor.to_local() if is_cut(tensor) else tensor).detach()
