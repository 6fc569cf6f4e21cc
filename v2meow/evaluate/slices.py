"""Where is the model good, and where is it not? Scores of single clips by what kind of clip they are.

Kinds are told from the table of clips (frame rate, length, genre) and from the sidecars' attributes: `set` (such as
dance, animals, still image, no music: what training did not show) and whatever else has a few values. Of many slices
one is always the worst: its p-value allows for how many were looked at.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from v2meow.data.manifest import Clip, read_clips
from v2meow.evaluate.material import Material
from v2meow.evaluate.resampling import interval

LEAST = 5  # clips, below which a slice is listed but not judged
_FRAME_RATES = (1, 5, 10, 24, 60)  # classes, each with what is nearest to it
_LENGTHS = (10.0, 30.0, 60.0, 300.0)  # seconds of video
_FEW = range(2, 13)  # so many values an attribute has whose slices are looked at
_ALWAYS = ("genre", "set")  # attributes that are looked at however many values they have
_PERMUTATIONS = 2000

PerClip = Mapping[str, Sequence[float | None]]  # by measure, one score a clip; higher is better
Kinds = dict[str, list[str | None]]  # by property, one value a clip


@dataclass(frozen=True, kw_only=True)
class _Slice:
    by: str
    value: str
    inside: np.ndarray  # bool [N]

    @property
    def name(self) -> dict[str, str]:
        return {"by": self.by, "value": self.value}


def measure(material: Material, per_clip: PerClip) -> dict[str, Any]:
    """The slices of the held-out clips, and for each measure of `per_clip` the worst slice and the largest gap."""
    by_id = {clip.clip_id: clip for clip in read_clips(material.workspace)}
    examples = material.examples
    clips = [by_id.get(name) for name in examples.clip_id]
    return cut(kinds(clips, [json.loads(text) for text in examples.attributes]), per_clip, material.recipe.seed)


def kinds(clips: list[Clip | None], attributes: list[dict[str, Any]]) -> Kinds:
    """By property, the value of each clip; None for a clip that has none."""
    found: Kinds = {
        "fps": [None if clip is None else rate_of(clip) for clip in clips],
        "video_seconds": [None if clip is None else length_of(clip.video_seconds) for clip in clips],
    }
    if any(clip is not None and clip.genre for clip in clips):
        found["genre"] = [clip.genre or None if clip else None for clip in clips]
    for name in sorted({name for each in attributes for name in each} - set(found)):
        values = [_text(each.get(name)) for each in attributes]
        if len({value for value in values if value is not None}) in _FEW or name in _ALWAYS:
            found[name] = values
    return found


def rate_of(clip: Clip) -> str:
    """Which of 1, 5, 10, 24 and 60 frames a second a video's rate is nearest to, or "variable"."""
    if clip.variable_fps:
        return "variable"
    return f"about {min(_FRAME_RATES, key=lambda rate: abs(math.log(clip.fps / rate)))}"


def length_of(seconds: float) -> str:
    """How long a video is, in a few classes."""
    return next((f"up to {most:g} s" for most in _LENGTHS if seconds <= most), f"over {_LENGTHS[-1]:g} s")


def _text(value: Any) -> str | None:
    return str(value) if isinstance(value, str | bool | int | float) else None


def cut(kinds: Kinds, per_clip: PerClip, seed: int = 0) -> dict[str, Any]:
    """What the slices by `kinds` score.

    `by`: by property and value the count of clips, and by measure `mean`, `low` and `high` (95 % bootstrap), `count`,
    `difference` from the mean of all other clips and its two-sided p-value times the slices that were looked at.
    `worst`: by measure, the slice with the lowest mean. `largest_gap`: by measure, the property whose best and worst
    value lie furthest apart. `too_few`: slices of fewer than 5 clips, of which nothing is said but their count.
    """
    slices = [
        _Slice(by=name, value=value, inside=np.array([each == value for each in values]))
        for name, values in kinds.items()
        for value in sorted({each for each in values if each is not None})
    ]
    judged = [each for each in slices if each.inside.sum() >= LEAST]
    scored = {name: _scores(judged, scores, seed) for name, scores in per_clip.items()}
    by: dict[str, dict[str, Any]] = {name: {} for name in kinds}
    for number, each in enumerate(judged):
        figures = {name: rows[number] for name, rows in scored.items() if rows[number] is not None}
        by[each.by][each.value] = {"count": int(each.inside.sum()), "measures": figures}
    return {
        "by": by,
        "worst": {name: worst for name, rows in scored.items() if (worst := _worst(judged, rows))},
        "largest_gap": {name: gap for name, rows in scored.items() if (gap := _largest_gap(judged, rows))},
        "too_few": [each.name | {"count": int(each.inside.sum())} for each in slices if each.inside.sum() < LEAST],
    }


def _scores(slices: list[_Slice], scores: Sequence[float | None], seed: int) -> list[dict[str, Any] | None]:
    """What one measure says of each slice; None where fewer than 5 of its clips have a score."""
    known = np.array([score is not None for score in scores])
    values = np.array([score for score in scores if score is not None])
    counts = [int((each.inside & known).sum()) for each in slices]
    looked_at = sum(count >= LEAST for count in counts)
    random = np.random.default_rng(seed)
    sums = random.permuted(np.tile(values, (_PERMUTATIONS, 1)), axis=1).cumsum(1)  # of random slices of any size
    return [
        _figures(values, each.inside[known], sums, looked_at, seed) if count >= LEAST else None
        for each, count in zip(slices, counts, strict=True)
    ]


def _figures(values: np.ndarray, inside: np.ndarray, sums: np.ndarray, looked_at: int, seed: int) -> dict[str, Any]:
    own, others = values[inside], values[~inside]
    low, high = interval(own, seed)
    figures = {"mean": float(own.mean()), "low": low, "high": high, "count": len(own)}
    if not len(others):  # a property that all clips share
        return figures | {"difference": None, "p_value": None}
    difference = float(own.mean() - others.mean())
    chance = sums[:, len(own) - 1] / len(own) - (sums[:, -1] - sums[:, len(own) - 1]) / len(others)
    reached = int(np.sum(np.abs(chance) >= abs(difference) - 1e-12))
    return figures | {"difference": difference, "p_value": min(1.0, looked_at * (reached + 1) / (len(sums) + 1))}


def _worst(slices: list[_Slice], rows: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    """The slice with the lowest mean, of those that have others to be compared with."""
    found = [each.name | row for each, row in zip(slices, rows, strict=True) if row and row["difference"] is not None]
    return min(found, key=lambda row: row["mean"], default=None)


def _largest_gap(slices: list[_Slice], rows: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    """The property between whose values the means differ most, and by how much."""
    means: dict[str, dict[str, float]] = {}
    for each, row in zip(slices, rows, strict=True):
        if row:
            means.setdefault(each.by, {})[each.value] = row["mean"]
    gaps = [
        {
            "by": by,
            "best": max(of, key=of.__getitem__),
            "worst": min(of, key=of.__getitem__),
            "gap": max(of.values()) - min(of.values()),
        }
        for by, of in means.items()
        if len(of) > 1
    ]
    return max(gaps, key=lambda gap: gap["gap"], default=None)
