"""What a batch of clips holds: read stretch by stretch, so that what neighbours share is decoded once.

Legend: N clips of a batch, T samples, F frames of a stretch.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from v2meow.config import Recipe
from v2meow.data.extract.plan import Batch, Stretch
from v2meow.data.manifest import Clip
from v2meow.data.reading import ClipMedia, read_clip
from v2meow.media import Reader


@dataclass(frozen=True, kw_only=True)
class BatchMedia:
    """`clips` that can be read, in their order, and their `waveforms` float32 [N, T].

    `frames` are, per visual extractor, those of each stretch, uint8 [F, H, W, 3], and `starts` the seconds into its
    stretch at which each clip of it starts. `failed` has the reason for each other clip, by its id.
    """

    clips: list[Clip]
    waveforms: np.ndarray
    frames: tuple[tuple[np.ndarray, ...], ...]
    starts: tuple[tuple[float, ...], ...]
    failed: dict[str, str]


def read_batch(recipe: Recipe, workspace: Path, reader: Reader, batch: Batch) -> BatchMedia:
    """Sound and pictures of a batch. Where a stretch cannot be read, its clips are, one by one."""
    read: list[tuple[Stretch, ClipMedia]] = []
    failed: dict[str, str] = {}
    for stretch, media in _read(recipe, workspace, reader, batch):
        if media.failure:
            failed[media.clip.clip_id] = media.failure
        else:
            read.append((stretch, media))
    waveforms = [part for stretch, media in read for part in _cut(recipe, stretch, media.waveform)]
    length = round(recipe.data.clip_seconds * recipe.codec.sample_rate)
    return BatchMedia(
        clips=[clip for stretch, _ in read for clip in stretch.clips],
        waveforms=np.stack(waveforms) if waveforms else np.zeros((0, length), np.float32),
        frames=tuple(tuple(media.frames[index] for _, media in read) for index in range(len(recipe.visual))),
        starts=tuple(tuple(clip.start - stretch.whole.start for clip in stretch.clips) for stretch, _ in read),
        failed=failed,
    )


def without_frames(media: BatchMedia, index: int) -> BatchMedia:
    """The same without the frames for visual extractor `index`, which need not travel on once they were seen."""
    frames = tuple(() if place == index else parts for place, parts in enumerate(media.frames))
    return replace(media, frames=frames)


def _read(recipe: Recipe, workspace: Path, reader: Reader, batch: Batch) -> Iterator[tuple[Stretch, ClipMedia]]:
    for stretch in batch.stretches:
        media = read_clip(recipe, workspace, reader, stretch.whole, frames=True)
        if media.failure and len(stretch.clips) > 1:
            alone = Batch(tuple(Stretch((clip,), clip) for clip in stretch.clips))
            yield from _read(recipe, workspace, reader, alone)
        else:
            yield stretch, media


def _cut(recipe: Recipe, stretch: Stretch, waveform: np.ndarray) -> Iterator[np.ndarray]:
    """The waveform [T] of each clip of a stretch."""
    rate = recipe.codec.sample_rate
    length = round(recipe.data.clip_seconds * rate)
    for clip in stretch.clips:
        first = round((clip.start - stretch.whole.start) * rate)
        yield waveform[first : first + length]
