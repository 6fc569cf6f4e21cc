"""The parts of the cascade as other processes, through Ray Serve's handles.

A process that dies while it works for a request is no error of the request: what was asked is asked again, of another
process or of its successor. The same question has the same answer, since a seed alone decides what is drawn.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

from grpc.aio import AioRpcError
from ray.exceptions import OutOfMemoryError, RayActorError, WorkerCrashedError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle
from torch import Tensor

from serving.editions import Edition
from serving.performance import Seen
from serving.problems import Problem
from v2meow.config import StageName
from v2meow.generate.piece import Brief
from v2meow.generate.request import Request

_LOST = (
    AioRpcError,
    BackPressureError,
    DeploymentUnavailableError,
    OutOfMemoryError,
    RayActorError,
    ReplicaUnavailableError,
    WorkerCrashedError,
)
_TRIES = 4  # a question that ends every process that is asked must not end them all
_PAUSE_S = 0.25
_SMALL = 1 << 20  # bytes; gRPC refuses messages of 4 MiB

Answer = TypeVar("Answer")


class HandleParts:
    """`Parts` by name: visual, text, semantic, coarse, fine, codec."""

    def __init__(self, handles: dict[str, DeploymentHandle]) -> None:
        self._handles = handles
        self._contexts: dict[str, int] = {}  # by a bundle's digest

    async def see(self, edition: Edition, video: Path, seconds: float | None) -> AsyncGenerator[Seen]:
        content = await asyncio.to_thread(video.read_bytes)
        stream, known, passed = self._handles["visual"].options(stream=True), 0, 0

        def ask() -> Any:
            nonlocal passed
            passed = 0
            return stream.see.remote(edition, content, seconds)

        async with aclosing(_streamed(ask)) as answers:
            async for seen in answers:
                passed += 1
                if passed > known:
                    known = passed
                    yield seen

    async def embed(self, edition: Edition, prompt: str) -> Tensor:
        return await _again(lambda: self._handles["text"].embed.remote(edition, prompt))

    async def decode(
        self, edition: Edition, stage: StageName, request: Request, milestones: list[int]
    ) -> AsyncIterator[Tensor]:
        stream = self._handle(stage, _bytes(request)).options(stream=True)
        known = 0  # frames that were told already

        def ask() -> Any:
            return stream.decode.remote(edition, request, [mark for mark in milestones if mark > known])

        async with aclosing(_streamed(ask)) as answers:
            async for codes in answers:
                known = codes.shape[1]
                yield codes

    async def context(self, edition: Edition) -> int:
        if edition.digest not in self._contexts:
            self._contexts[edition.digest] = await _again(lambda: self._handles["codec"].context.remote(edition))
        return self._contexts[edition.digest]

    async def sound(self, edition: Edition, codes: Tensor, first: int, end: int) -> Tensor:
        sent = codes.short()
        handle = self._handle("codec", sent.nbytes)
        return await _again(lambda: handle.sound.remote(edition, sent, first, end))

    async def agreement(self, edition: Edition, brief: Brief, ids: Tensor) -> float:
        return await _again(lambda: self._handles["semantic"].agreement.remote(edition, brief, ids))

    def _handle(self, name: str, size: int) -> DeploymentHandle:
        """For a call with `size` bytes of tensors: small ones go by gRPC, which costs the ingress a quarter less."""
        return self._handles[name].options(_by_reference=size > _SMALL)


def _bytes(request: Request) -> int:
    """What the tensors of a request take."""
    given = request.given
    return sum(part.nbytes for part in (*given.visual, given.joint, given.prefix, request.known) if part is not None)


async def _streamed(ask: Callable[[], Any]) -> AsyncGenerator[Any]:
    """The answers of a stream; when its process is lost, those of another follow."""
    for attempt in range(_TRIES):
        answers = ask()
        try:
            async for answer in answers:
                yield answer
            return
        except _LOST:
            await _pause(attempt)
        finally:
            answers.cancel()
    raise _lost()


async def _again(ask: Callable[[], Awaitable[Any]]) -> Any:
    for attempt in range(_TRIES):
        try:
            return await ask()
        except _LOST:
            await _pause(attempt)
    raise _lost()


async def _pause(attempt: int) -> None:
    await asyncio.sleep(_PAUSE_S * 2**attempt)


def _lost() -> Problem:
    return Problem(503, "part-lost", "a part of the cascade failed again and again: try later", retry_after=30.0)
