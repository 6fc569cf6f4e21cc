"""Reading the media of many files: a few workers, each with a bounded decoding process of its own.

Results come in the order of the items however the workers were scheduled, and only a few are read
ahead, so that memory does not grow with the catalogue.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

import numpy as np

from v2meow.config import MediaConfig, Recipe
from v2meow.data.manifest import Clip
from v2meow.media import MediaError, Reader

_WORKERS = 2  # each waits on a decoding process of its own
_AHEAD = 16  # items that are read before they are asked for

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class ClipMedia:
    """What one clip holds: waveform float32 [T] at the codec's rate, and per visual extractor frames
    uint8 [V, S, S, 3]. `failure` says why there is nothing instead."""

    clip: Clip
    waveform: np.ndarray
    frames: tuple[np.ndarray, ...] = ()
    failure: str = ""


def map_readers(
    limits: MediaConfig, function: Callable[[Reader, Item], Result], items: Iterable[Item]
) -> Iterator[Result]:
    """`function(reader, item)` of every item, in their order, by workers that each own a Reader."""
    idle: SimpleQueue[Reader] = SimpleQueue()
    waiting: deque = deque()

    def work(item: Item) -> Result:
        reader = idle.get()
        try:
            return function(reader, item)
        finally:
            idle.put(reader)

    with ExitStack() as stack:
        for _ in range(_WORKERS):
            idle.put(stack.enter_context(Reader(limits)))
        pool = stack.enter_context(ThreadPoolExecutor(_WORKERS))
        stack.callback(pool.shutdown, cancel_futures=True)  # first of all, when the consumer stops early
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def read_media(recipe: Recipe, workspace: Path, clips: Iterable[Clip], *, frames: bool) -> Iterator[ClipMedia]:
    """The media of each clip; a clip that cannot be read comes with its reason as `failure`."""
    rate = recipe.codec.sample_rate

    def read(reader: Reader, clip: Clip) -> ClipMedia:
        path = workspace / clip.path
        try:
            waveform = reader.waveform(path, rate, clip.start, clip.seconds)
            pictures = tuple(
                reader.frames(path, extractor.rate, extractor.size, clip.start, clip.seconds)
                for extractor in (recipe.visual if frames else ())
            )
        except MediaError as error:
            return ClipMedia(clip=clip, waveform=np.zeros(0, np.float32), failure=str(error))
        return ClipMedia(clip=clip, waveform=waveform, frames=pictures)

    return map_readers(recipe.media, read, clips)
