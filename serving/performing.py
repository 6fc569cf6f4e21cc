"""A generation under way: its place at the gate, its deadline, its record, and an end whatever happens."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, TypeVar

from serving.generation import Advance, Audio, Generation
from serving.problems import Problem, problem_of
from serving.spool import Record

if TYPE_CHECKING:
    from serving.service import Service

log = logging.getLogger("v2meow.serving")
_BEAT_S = 2.0  # how often a generation that runs says so
_FAREWELL_S = 2.0  # what it may take to end one

Result = TypeVar("Result")


class Performing:
    """A generation with its place at the gate, from the beginning to whatever end."""

    def __init__(self, service: "Service", record: Record, patience: float) -> None:
        self._service, self.record = service, record
        self._began, self._deadline = time.monotonic(), time.monotonic() + patience
        self._place = service.gate.place(record.order.takes, patience)
        self._entered = self._given_up = False
        self._ended = asyncio.Event()
        self._limit: asyncio.Timeout | None = None
        self.generation: Generation | None = None
        self._heart = asyncio.ensure_future(self._beat())
        service.performing[record.id] = self

    @property
    def left(self) -> float:
        """Seconds to the deadline."""
        return self._deadline - time.monotonic()

    async def begin(self) -> None:
        """Wait for a place, see the video. Problem."""
        try:
            await self._bounded(self._enter())
        except BaseException as error:
            raise await self._failed(error) from error

    async def _enter(self) -> None:
        await self._place.__aenter__()
        self._entered = True
        self.generation = self._service.generation(self.record)
        await self.generation.prepare(self._service.settings.limits.max_seconds)

    async def events(self) -> AsyncGenerator[Audio | Advance]:
        """What happens, to the end. Problem, in the middle too. Leaving it frees what it holds at once."""
        assert self.generation is not None  # after `begin`
        play, heard = self.generation.play(), 0
        try:
            while (item := await self._bounded(anext(play, None))) is not None:
                if isinstance(item, Audio):
                    heard += len(item.samples)
                    if heard == len(item.samples):
                        self._service.meters.first_audio(time.monotonic() - self._began, self.record.model["label"])
                yield item
        except BaseException as error:
            await play.aclose()
            failure = await self._failed(error)
            if isinstance(error, GeneratorExit):
                raise
            raise failure from error
        await self._close()
        made = (self.record.seconds or 0.0) * self.record.order.takes
        self._service.meters.finished(time.monotonic() - self._began, made, self.record.model["label"])

    async def finish(self) -> None:
        """Play to the end, for nobody who listens. Problem."""
        async with aclosing(self.events()) as events:
            async for _ in events:
                pass

    async def leave(self) -> None:
        """Free what it holds, if it has not ended: `events` that were never begun free nothing."""
        if not self._ended.is_set():
            await self._failed(asyncio.CancelledError())

    def give_up(self) -> None:
        """End it with a Problem for those who listen."""
        self._given_up = True
        if self._limit is not None:
            with suppress(RuntimeError):  # it has ended
                self._limit.reschedule(asyncio.get_running_loop().time())

    async def gone(self) -> None:
        """Wait until it has ended and writes no more; not for ever for a listener who has stopped reading."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_S):
                await self._ended.wait()

    async def _bounded(self, work: Awaitable[Result]) -> Result:
        """The result of `work`, unless the deadline passes or the generation is given up before."""
        async with asyncio.timeout(0.0 if self._given_up else self.left) as self._limit:
            return await work

    async def _failed(self, error: BaseException) -> BaseException:
        """Put it into the record; what to raise."""
        record, problem = self.record, error
        if self._given_up:
            record.status = "cancelled"
            problem = Problem(409, "cancelled", "the generation was given up")
        elif isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            record.status = "cancelled"
        else:
            problem = problem_of(error)
            if problem.status == 500:
                log.error("generation %s failed", record.id, exc_info=error)
            record.status, record.error = "failed", problem.body
            self._service.meters.failed(problem.kind, record.model.get("label", ""))
        with suppress(OSError):
            self._service.spool.save(record)
        await self._close()
        return error if isinstance(error, (asyncio.CancelledError, GeneratorExit)) else problem

    async def _close(self) -> None:
        if self._ended.is_set():
            return
        self._ended.set()
        self._heart.cancel()
        if self.generation is not None:
            await self.generation.leave()
        self._service.performing.pop(self.record.id, None)
        if self._entered:
            await self._place.__aexit__(None, None, None)

    async def _beat(self) -> None:
        """Say that somebody works on it; give it up when it was forgotten meanwhile, by whatever process."""
        while True:
            try:
                self._service.spool.beat(self.record.id)
                if self.record.status == "running":
                    self._service.spool.save(self.record)
            except FileNotFoundError:
                self.give_up()
            except OSError:
                log.exception("the spool cannot be written")
            await asyncio.sleep(_BEAT_S)
