"""Answers that are sent while the music is made: sound, the scored video, or lines of JSON for all that happens."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, Protocol

import numpy as np
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from serving.generation import Audio, Generation
from serving.performing import Performing
from serving.problems import Problem, problem_of
from serving.results import MEDIA_TYPES
from serving.uploads import GenerationForm
from v2meow.generate.provenance import comment
from v2meow.media import OggOpus, Scoring, Spare, pcm, wav_header

EVENTS = "application/x-ndjson"
Make = Callable[[Performing], AsyncGenerator[bytes]]
_GRACE_S = 2.0  # after the deadline, for the last line that tells of it


class Stream(StreamingResponse):
    """The body `make` makes of a generation. Its end, or its client's end, ends both; `release` is called then."""

    def __init__(
        self,
        make: Make,
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


def streamed(form: GenerationForm, http_version: str, spare: Spare) -> tuple[Make | None, str]:
    """What makes the answer as the music is made, and its media type; None where all of it is awaited."""
    if form.format == "events":
        return events, EVENTS
    if form.takes > 1 or form.format == "mp4":
        return None, ""
    if form.format == "wav":
        return wav, MEDIA_TYPES["wav"]
    if http_version == "1.0":  # it has no chunks: what breaks off would pass for the whole
        return None, ""
    if form.format == "ogg":
        return ogg, MEDIA_TYPES["ogg"]
    return partial(fmp4, spare), MEDIA_TYPES["mp4"]


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
    generation = _generation(performing)
    return wav_header(_samples(performing), generation.recipe.codec.sample_rate, comment(generation.provenance()))


def _samples(performing: Performing) -> int:
    assert performing.record.seconds is not None
    return round(performing.record.seconds * _generation(performing).recipe.codec.sample_rate)


def _generation(performing: Performing) -> Generation:
    assert performing.generation is not None  # after `begin`
    return performing.generation


class Encoder(Protocol):
    """Makes a file piece by piece. `add` and `end` may take their time; `close` comes at any moment."""

    def add(self, samples: np.ndarray) -> bytes: ...

    def end(self) -> Iterator[bytes]: ...

    def close(self) -> None: ...


def ogg(performing: Performing) -> AsyncGenerator[bytes]:
    """The only take as Ogg/Opus, as it is made."""
    generation = _generation(performing)
    rate, about = generation.recipe.codec.sample_rate, comment(generation.provenance())
    return _encoded(performing, lambda: OggOpus(rate, about))


def fmp4(spare: Spare, performing: Performing) -> AsyncGenerator[bytes]:
    """The video with the only take, as it is made, by a process that `spare` gives."""
    generation = _generation(performing)
    recipe, about = generation.recipe, comment(generation.provenance())
    rate = recipe.codec.sample_rate
    return _encoded(performing, lambda: Scoring(recipe.media, generation.video, rate, about, spare))


async def _encoded(performing: Performing, start: Callable[[], Encoder]) -> AsyncGenerator[bytes]:
    """What an encoder makes of the only take. Nobody knows its length beforehand:

    the answer is chunked, and one that fails breaks off without the last chunk, which no client takes for the whole.
    The encoder starts while the first sound is made, and its last part waits until everything is kept. Where it fails
    before that the generation does, whose record says why: who was to hear it has not left.
    """
    starting = asyncio.ensure_future(asyncio.to_thread(start))
    try:
        async with aclosing(performing.events()) as events:
            async for event in events:
                if isinstance(event, Audio):
                    try:
                        encoder = await asyncio.shield(starting)
                        part = await asyncio.to_thread(encoder.add, event.samples.numpy())
                    except Exception as error:
                        await events.athrow(error)  # which raises the Problem that it is
                        raise
                    if part:
                        yield part
        ending = (await asyncio.shield(starting)).end()
        while (part := await asyncio.to_thread(next, ending, None)) is not None:
            if part:
                yield part
    finally:
        starting.add_done_callback(_close)


def _close(starting: asyncio.Future[Encoder]) -> None:
    """Let an encoder go once it has started, which may be after its client has gone."""
    with suppress(Exception):  # it did not start: who waited for it was told
        asyncio.get_running_loop().run_in_executor(None, starting.result().close)


async def events(performing: Performing) -> AsyncGenerator[bytes]:
    """All takes as they are made; the last line is `done`, or `error` with what went wrong."""
    generation, record = _generation(performing), performing.record
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
