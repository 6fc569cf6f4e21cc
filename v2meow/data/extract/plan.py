"""Which clips are worked on together: a pure function of the clips table and the recipe.

Shards are files, batches go through the extractors at once, stretches are read in one go. What is worked on
together decides the last bits of the features, so it must not depend on machines or on what was done before, nor on
which other videos there are: a batch holds clips of one video.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from v2meow.config import Recipe
from v2meow.data.manifest import Clip

_STRETCH_S = 30.0  # bounds what one reading takes of memory and patience
_SAME_S = 1e-6


@dataclass(frozen=True)
class Stretch:
    """Neighbouring clips of one video, and the part of the video that they cover, as if it were one clip."""

    clips: tuple[Clip, ...]
    whole: Clip


@dataclass(frozen=True)
class Batch:
    """Clips that go through the extractors at once."""

    stretches: tuple[Stretch, ...]

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def clips(self) -> list[Clip]:
        """Those of all stretches, in their order."""
        return [clip for stretch in self.stretches for clip in stretch.clips]


@dataclass(frozen=True)
class Shard:
    """The clips of one file."""

    number: int
    batches: tuple[Batch, ...]

    def __len__(self) -> int:
        return sum(len(batch) for batch in self.batches)


def make_shards(recipe: Recipe, clips: Sequence[Clip]) -> list[Shard]:
    """All clips, in their order, in batches of up to `extract.batch`, in shards of up to `extract.shard_clips`."""
    joined = _cut_where_samples_are(recipe)
    batches = [
        Batch(_stretches(part, joined))
        for _, video in groupby(clips, key=lambda clip: clip.path)
        for part in _chunks(list(video), recipe.extract.batch)
    ]
    shards: list[list[Batch]] = []
    for batch in batches:
        if not shards or sum(map(len, shards[-1])) + len(batch) > recipe.extract.shard_clips:
            shards.append([])
        shards[-1].append(batch)
    return [Shard(number, tuple(part)) for number, part in enumerate(shards)]


def _chunks(clips: Sequence[Clip], size: int) -> list[Sequence[Clip]]:
    return [clips[first : first + size] for first in range(0, len(clips), size)]


def _cut_where_samples_are(recipe: Recipe) -> bool:
    """Whether clips of one reading start at its samples and rows of features, so that they can be cut out of it."""
    rates = [float(recipe.codec.sample_rate), *(extractor.rate for extractor in recipe.visual)]
    return all(round(recipe.data.hop_seconds * rate, 6).is_integer() for rate in rates)


def _stretches(clips: Sequence[Clip], joined: bool) -> tuple[Stretch, ...]:
    alone = [Stretch((clip,), clip) for clip in clips]
    return tuple(_join(alone) if joined else alone)


def _join(stretches: list[Stretch]) -> list[Stretch]:
    """Neighbours that overlap or touch become one, as long as it stays short enough."""
    found = stretches[:1]
    for later in stretches[1:]:
        before, clip = found[-1], later.whole
        seconds = clip.start + clip.seconds - before.whole.start
        follows = before.whole.start < clip.start <= before.whole.start + before.whole.seconds + _SAME_S
        if clip.path == before.whole.path and follows and seconds <= max(_STRETCH_S, clip.seconds):
            found[-1] = Stretch((*before.clips, clip), replace(before.whole, seconds=seconds))
        else:
            found.append(later)
    return found
