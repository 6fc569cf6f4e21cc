"""The music that encoders are fitted to: a random sample of clips, read a few at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from v2meow.config import Recipe
from v2meow.data.manifest import Clip, Split
from v2meow.data.quarantine import usable_clips
from v2meow.data.reading import read_media
from v2meow.progress import progress

_BATCH = 32  # clips


def of_split(workspace: Path, split: Split) -> list[Clip]:
    """The usable clips of a split, in the table's order."""
    return [clip for clip in usable_clips(workspace) if clip.split == split]


def sample(clips: Sequence[Clip], count: int, seed: int) -> list[Clip]:
    """At most `count` random clips in random order, the same for the same seed."""
    order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(seed))
    return [clips[row] for row in order[:count].tolist()]


def read_music(recipe: Recipe, workspace: Path, clips: Sequence[Clip]) -> Iterator[tuple[list[Clip], Tensor]]:
    """Those clips that can be read, in their order: at most 32 with their waveforms [B, T] at the codec's rate."""
    part: list[Clip] = []
    waveforms: list[Tensor] = []
    with progress("read the music", len(clips)) as bar:
        for media in read_media(recipe, workspace, clips, frames=False):
            bar.advance()
            if media.failure:
                continue
            part.append(media.clip)
            waveforms.append(torch.from_numpy(media.waveform))
            if len(part) == _BATCH:
                yield part, torch.stack(waveforms)
                part, waveforms = [], []
    if part:
        yield part, torch.stack(waveforms)
