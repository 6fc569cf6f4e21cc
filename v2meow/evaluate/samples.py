"""Pieces to look at and listen to, in reports/samples: the best, the middling and the worst, beside real music.

Of each piece three sounds under the same picture: `real`, the soundtrack through the codec; `generated`, the music
made for this video; `control`, music made for another one, which ought to fit it less. Chooses by scores, measures
nothing itself.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from v2meow.data.manifest import Clip, read_clips
from v2meow.evaluate.gate import REPORTS
from v2meow.evaluate.material import Material
from v2meow.files import atomic_folder, write_json
from v2meow.media import MediaError, Reader, write_video, write_wav

SAMPLES = REPORTS / "samples"
KINDS = ("real", "generated", "control")
_BESTS, _MIDDLING, _WORSTS = 2, 2, 2
_PICTURES_S, _PIXELS = 10.0, 144  # of the small videos; the shorter side


def write(material: Material, scores: Mapping[str, Sequence[float | None]]) -> None:
    """Write NNN-KIND.wav and NNN-KIND.mp4 of the chosen pieces, and samples.json, which says of each why it is there.

    `scores` are measures of how well each piece goes with its picture, by name, higher being better. There is no MP4 of
    a video that cannot be read any more.
    """
    clips = {clip.clip_id: clip for clip in read_clips(material.workspace)}
    with atomic_folder(material.workspace / SAMPLES) as folder, Reader(material.recipe.media) as reader:
        listed = []
        for row, why in choose(scores, len(material.generated)):
            clip = clips[material.examples.clip_id[row]]
            sounds = _sounds(material, row)
            for kind, sound in sounds.items():
                write_wav(folder / f"{row:03d}-{kind}.wav", sound, material.recipe.codec.sample_rate)
            _write_videos(material, reader, clip, folder, row, sounds)
            listed.append(_about(material, row, why))
        write_json(folder / "samples.json", listed)


def choose(scores: Mapping[str, Sequence[float | None]], count: int) -> list[tuple[int, str]]:
    """Rows of 0 … count - 1 and why: "best", "middling" or "worst" by their mean rank over all scores.

    Without scores rows spread evenly over all, with no reason.
    """
    ranks = mean_ranks(scores, count)
    wanted = min(_BESTS + _MIDDLING + _WORSTS, count)
    if ranks is None:
        return [(int(row), "") for row in np.linspace(0, count - 1, wanted).round()]
    order = [int(row) for row in np.lexsort((np.arange(count), -ranks))]
    middle = [order.pop(len(order) // 2) for _ in range(min(_MIDDLING, wanted // 3))]
    worst = [order.pop() for _ in range(min(_WORSTS, wanted // 3))]
    groups = {"worst": worst, "middling": middle, "best": order[: wanted - len(middle) - len(worst)]}
    turns = zip_longest(*([(row, why) for row in rows] for why, rows in groups.items()))
    return [chosen for turn in turns for chosen in turn if chosen is not None]  # a page that is cut has some of each


def mean_ranks(scores: Mapping[str, Sequence[float | None]], count: int) -> np.ndarray | None:
    """[count] in 0 … 1, 1 the best: the mean over the scores of each row's rank in them; None without any score.

    Ranks, because scores have units of their own. A row without a score has the middle rank.
    """
    columns = []
    for values in scores.values():
        assert len(values) == count, (len(values), count)
        known = np.array([value is not None for value in values])
        if known.sum() > 1:
            column = np.full(count, 0.5)
            column[known] = (rankdata([value for value in values if value is not None]) - 1) / (known.sum() - 1)
            columns.append(column)
    return np.mean(columns, axis=0) if columns else None


def another(videos: Sequence[str], row: int) -> int:
    """The row, half a table on or the next after it, that belongs to another video; `row` where there is none."""
    count = len(videos)
    return next((j for step in range(count) if videos[j := (row + count // 2 + step) % count] != videos[row]), row)


def _sounds(material: Material, row: int) -> dict[str, np.ndarray]:
    """float32 [T] of each of KINDS; no control where there is one video only."""
    other = another(material.examples.video_id, row)
    sounds = {
        "real": material.real.waveforms[row].numpy(),
        "generated": material.generated.waveforms[row].numpy(),
    }
    return sounds | ({} if other == row else {"control": material.generated.waveforms[other].numpy()})


def _write_videos(
    material: Material, reader: Reader, clip: Clip, folder: Path, row: int, sounds: dict[str, np.ndarray]
) -> None:
    try:
        pictures = reader.frames(
            material.workspace / clip.path, _PICTURES_S, _PIXELS, clip.start, clip.seconds, whole=True
        )
    except MediaError:
        return  # the sound is there all the same
    height, width = (size // 2 * 2 for size in pictures.shape[1:3])
    pictures = pictures[:, :height, :width]
    for kind, sound in sounds.items():
        write_video(folder / f"{row:03d}-{kind}.mp4", pictures, _PICTURES_S, sound, material.recipe.codec.sample_rate)


def _about(material: Material, row: int, why: str) -> dict[str, Any]:
    examples = material.examples
    return {
        "number": f"{row:03d}",
        "why": why,
        "clip_id": examples.clip_id[row],
        "caption": examples.caption[row],
        "attributes": json.loads(examples.attributes[row]),
        "control": examples.caption[another(examples.video_id, row)],
    }
