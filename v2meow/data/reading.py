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
_AHEAD = 2  # items a worker that are read before they are asked for: whole pictures take 0.3 GB a stretch

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class ClipMedia:
    """What one clip holds: waveform float32 [T] at the codec's rate, and per visual extractor frames
    uint8 [F, H, W, 3] as its configuration asks for them. `failure` says why there is nothing instead."""

    clip: Clip
    waveform: np.ndarray
    frames: tuple[np.ndarray, ...] = ()
    failure: str = ""


def map_readers(
    limits: MediaConfig, function: Callable[[Reader, Item], Result], items: Iterable[Item], workers: int = _WORKERS
) -> Iterator[Result]:
    """`function(reader, item)` of every item, in their order, by `workers` threads that each own a Reader."""
    idle: SimpleQueue[Reader] = SimpleQueue()
    waiting: deque = deque()

    def work(item: Item) -> Result:
        reader = idle.get()
        try:
            return function(reader, item)
        finally:
            idle.put(reader)

    with ExitStack() as stack:
        for _ in range(workers):
            idle.put(stack.enter_context(Reader(limits)))
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        stack.callback(pool.shutdown, cancel_futures=True)  # first of all, when the consumer stops early
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > _AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def read_media(recipe: Recipe, workspace: Path, clips: Iterable[Clip], *, frames: bool) -> Iterator[ClipMedia]:
    """The media of each clip; a clip that cannot be read comes with its reason as `failure`."""

    def read(reader: Reader, clip: Clip) -> ClipMedia:
        return read_clip(recipe, workspace, reader, clip, frames=frames)

    return map_readers(recipe.media, read, clips)


def read_clip(recipe: Recipe, workspace: Path, reader: Reader, clip: Clip, *, frames: bool) -> ClipMedia:
    """The media of one clip, with the reason as `failure` when it cannot be read."""
    path = workspace / clip.path
    try:
        waveform = reader.waveform(path, recipe.codec.sample_rate, clip.start, clip.seconds)
        pictures = tuple(
            reader.frames(path, visual.frame_rate, visual.size, clip.start, clip.seconds, whole=visual.whole)
            for visual in (recipe.visual if frames else ())
        )
    except MediaError as error:
        return ClipMedia(clip=clip, waveform=np.zeros(0, np.float32), failure=str(error))
    return ClipMedia(clip=clip, waveform=waveform, frames=pictures)
