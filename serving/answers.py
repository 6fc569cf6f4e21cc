"""Answers that are sent while the music is made: a WAV file, or a line of JSON for everything that happens."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from serving.generation import Audio
from serving.performing import Performing
from serving.problems import Problem, problem_of
from v2meow.generate.provenance import comment
from v2meow.media import pcm, wav_header

EVENTS = "application/x-ndjson"
_GRACE_S = 2.0  # after the deadline, for the last line that tells of it


class Stream(StreamingResponse):
    """The body `make` makes of a generation. Its end, or its client's end, ends both; `release` is called then."""

    def __init__(
        self,
        make: Callable[[Performing], AsyncGenerator[bytes]],
        performing: Performing,
        media_type: str,
        headers: dict[str, str],
        release: Callable[[], None],
    ) -> None:
        self._made, self._performing, self._release = make(performing), performing, release
        super().__init__(self._made, media_type=media_type, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            # A client that has stopped reading must not keep its place for ever.
            async with asyncio.timeout(self._performing.left + _GRACE_S), aclosing(self._made):
                await super().__call__(scope, receive, send)
        finally:
            try:
                await self._performing.leave()  # a client who left early has never begun to listen
            finally:
                self._release()


async def wav(performing: Performing) -> AsyncGenerator[bytes]:
    """The only take, as it is made. Its length is known beforehand and said in the header of HTTP and of the file:

    a stream that fails ends before, which no client takes for the whole. The last samples wait until everything is
    kept: a client who has them all leaves, and would cancel that.
    """
    yield _header(performing)
    left, last = _samples(performing), b""
    async with aclosing(performing.events()) as events:
        async for event in events:
            if isinstance(event, Audio):
                left -= len(event.samples)
                if left:
                    yield pcm(event.samples.numpy())
                else:
                    last = pcm(event.samples.numpy())
    yield last


def wav_bytes(performing: Performing) -> int:
    """How long that file will be."""
    return len(_header(performing)) + 2 * _samples(performing)


def _header(performing: Performing) -> bytes:
    generation = performing.generation
    assert generation is not None  # after `begin`
    return wav_header(_samples(performing), generation.recipe.codec.sample_rate, comment(generation.provenance()))


def _samples(performing: Performing) -> int:
    assert performing.generation is not None and performing.record.seconds is not None
    return round(performing.record.seconds * performing.generation.recipe.codec.sample_rate)


async def events(performing: Performing) -> AsyncGenerator[bytes]:
    """All takes as they are made; the last line is `done`, or `error` with what went wrong."""
    generation, record = performing.generation, performing.record
    assert generation is not None
    begun = {"id": record.id, "seconds": record.seconds, "takes": record.order.takes, "model": record.model}
    yield _line("begun", {**begun, "sample_rate": generation.recipe.codec.sample_rate})
    try:
        async with aclosing(performing.events()) as happened:
            async for event in happened:
                if isinstance(event, Audio):
                    sound = base64.b64encode(pcm(event.samples.numpy())).decode()
                    yield _line("audio", {"take": event.take, "pcm": sound})
                else:
                    yield _line("progress", {"take": event.take, "stage": event.stage, "share": round(event.share, 3)})
    except Problem as problem:
        yield _line("error", problem_of(problem).body)
    else:
        yield _line("done", {"id": record.id, "takes": record.takes})


def _line(event: str, values: dict[str, Any]) -> bytes:
    return json.dumps({"event": event, **values}).encode() + b"\n"
