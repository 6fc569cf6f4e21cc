"""Who may work when: a bounded number of pieces at once, a bounded queue before them, the rest is sent away at once."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from serving.problems import Problem

_FIRST_GUESS_S = 2.0  # what a piece takes, before any was seen
_MEMORY = 0.8  # of the mean time of a piece


class Gate:
    """First come, first served, by `running` pieces at once and `waiting` more."""

    def __init__(self, running: int, waiting: int) -> None:
        self.running, self.waiting = running, waiting
        self._inside = 0
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._mean = _FIRST_GUESS_S

    @property
    def inside(self) -> int:
        """Pieces at work."""
        return self._inside

    @property
    def queued(self) -> int:
        """Pieces that wait."""
        return sum(pieces for pieces, _ in self._queue)

    @property
    def outlook(self) -> float:
        """Seconds until one more piece would be done, by what is known of those before."""
        return (self._inside + self.queued + 1) / self.running * self._mean

    @asynccontextmanager
    async def place(self, pieces: int, patience: float) -> AsyncIterator[None]:
        """Wait for room for `pieces`, at most `patience` seconds. Problem 429 when too many wait already.

        Who could not be served in time by what is known of the pieces before is sent away at once, too.
        """
        self.check(pieces, patience)
        pieces = min(pieces, self.running)
        if self._is_full(pieces):
            await self._wait(pieces, patience)
        else:
            self._inside += pieces
        began = time.monotonic()
        try:
            yield
        finally:
            self._inside -= pieces
            self._mean = _MEMORY * self._mean + (1 - _MEMORY) * (time.monotonic() - began)
            self._admit()

    def check(self, pieces: int, patience: float) -> None:
        """Problem 429 for who would be sent away by `place` now."""
        pieces = min(pieces, self.running)
        if self._is_full(pieces) and (self.queued + pieces > self.waiting or self.outlook > patience):
            raise Problem(429, "busy", "too many requests wait already: come back later", retry_after=self.outlook)

    def _is_full(self, pieces: int) -> bool:
        return self._inside + pieces > self.running or bool(self._queue)

    async def _wait(self, pieces: int, patience: float) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((pieces, turn))
        try:
            async with asyncio.timeout(patience):
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled():  # its turn came at the very moment it left
                self._inside -= pieces
            self._queue = deque(entry for entry in self._queue if entry[1] is not turn)
            self._admit()
            raise

    def _admit(self) -> None:
        while self._queue and self._inside + self._queue[0][0] <= self.running:
            pieces, turn = self._queue.popleft()
            if not turn.done():
                self._inside += pieces
                turn.set_result(None)
