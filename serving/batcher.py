"""The engine of a stage at work in a thread of its own, for any number of callers at once.

Knows nothing of what calls it: Ray Serve, KServe and tests use it alike.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from v2meow.generate.parts import StageEngine
from v2meow.generate.request import Request
from v2meow.model.lm import TokenLM

log = logging.getLogger("v2meow.serving")
_Answer = Tensor | Exception | None  # None is the end
_MANY, _HOLD_S = 4, 0.1


@dataclass(eq=False)
class _Order:
    """A window that is asked for, and where its codes go."""

    request: Request
    milestones: deque[int]
    loop: asyncio.AbstractEventLoop
    answers: "asyncio.Queue[_Answer]" = field(default_factory=asyncio.Queue)
    since: float = field(default_factory=time.monotonic)
    ticket: int = 0
    given_up: bool = False

    def answer(self, *parts: _Answer) -> None:
        for part in parts:
            try:
                self.loop.call_soon_threadsafe(self.answers.put_nowait, part)
            except RuntimeError:  # the caller's loop has ended, and nobody waits
                return


@dataclass(frozen=True)
class Load:
    """What an engine has to do: rows in use and rows there are, requests that wait, and codes made since it began."""

    rows: int
    room: int
    waiting: int
    codes: int


class Batcher:
    """Continuous batching for coroutines. Closing it ends its thread; what is under way then fails."""

    def __init__(self, engine: StageEngine) -> None:
        """Takes `engine` over: use it through the batcher only."""
        self._engine = engine
        self._codes = 0
        self._changed = threading.Condition()
        self._inbox: list[_Order] = []
        self._closed = False
        self._inside: dict[int, _Order] = {}
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def load(self) -> Load:
        """A look from outside: figures of one moment or the next."""
        rows, room, waiting = self._engine.load
        return Load(rows, room, waiting + len(self._inbox), self._codes)

    @property
    def model(self) -> TokenLM:
        """The stage's model, with the weights as the engine rounded them."""
        return self._engine.model

    @property
    def alive(self) -> bool:
        """Whether the thread works."""
        return self._thread.is_alive()

    async def decode(self, request: Request, milestones: Sequence[int] = ()) -> AsyncGenerator[Tensor]:
        """Codes [K, t] of the first `milestones` frames, as soon as they are there, and at last those of all frames.

        ValueError for a request that does not fit, RuntimeError when the engine has ended. Leaving the iterator frees
        the request's rows before the next step.
        """
        order = _Order(request, deque(milestones), asyncio.get_running_loop())
        self._tell(order)
        try:
            while (answer := await order.answers.get()) is not None:
                if isinstance(answer, Exception):
                    raise answer
                yield answer
        finally:
            order.given_up = True
            self._tell(None)

    def close(self) -> None:
        """End the thread after the step under way."""
        self._closed = True
        self._tell(None)
        self._thread.join()

    def _tell(self, order: _Order | None) -> None:
        with self._changed:
            if order is not None:
                if self._closed:  # nobody would ever answer
                    raise RuntimeError("the engine was closed")
                self._inbox.append(order)
            self._changed.notify()

    # ---- in the thread

    def _work(self) -> None:
        reason: Exception = RuntimeError("the engine was closed")
        try:
            while not self._closed:
                self._take_in()
                self._step()
        except Exception as error:
            log.exception("the engine has failed and is closed")
            reason = error
        with self._changed:  # what is put in later is refused
            self._closed, late = True, self._inbox
        for order in [*self._inside.values(), *late]:
            order.answer(reason)

    def _take_in(self) -> None:
        """Wait until there is something to do, let new requests in and those out that were given up."""
        with self._changed:
            while not (self._inbox or self._engine.busy or self._closed):
                self._changed.wait()
            orders = self._due()
        for order in orders:
            try:
                order.ticket = self._engine.submit(order.request)
            except ValueError as error:
                order.answer(error)
            else:
                self._inside[order.ticket] = order
        for ticket in [ticket for ticket, order in self._inside.items() if order.given_up]:
            self._engine.cancel(ticket)
            del self._inside[ticket]

    def _due(self) -> list[_Order]:
        """Take out what waits; nothing while a few wait beside many inside, at most for _HOLD_S.

        To read conditions interrupts everybody inside, and several orders at once cost less than one by one. Windows
        that were read together end together, and so do the windows after them.
        """
        self._inbox = [order for order in self._inbox if not order.given_up]
        few = len(self._inside) >= _MANY and 2 * len(self._inbox) < len(self._inside)
        if few and self._inbox and time.monotonic() - self._inbox[0].since < _HOLD_S:
            return []
        orders, self._inbox = self._inbox, []
        return orders

    def _step(self) -> None:
        for ticket, codes in self._engine.step().items():
            self._codes += codes.numel()
            self._inside.pop(ticket).answer(codes, None)
        for ticket, order in self._inside.items():
            ready = self._engine.frames(ticket) if order.milestones else 0
            passed = [order.milestones.popleft() for _ in range(sum(mark <= ready for mark in order.milestones))]
            if passed:
                order.answer(self._engine.peek(ticket)[:, : passed[-1]])
