"""A catalogue in figures: hours by genre and split, and how videos differ in length, loudness, frame rate and tempo.

Clips tables of earlier versions are read, too: what they lack is left out. Knows tables, not files; `v2meow.data.chart`
draws the figures.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

MEASURED = {  # numeric columns and what their values are, for people
    "video_seconds": "length, s",
    "fps": "pictures a second",
    "loudness_db": "loudness, dBFS",
    "lufs": "loudness, LUFS",
    "tempo": "tempo, beats a minute",
    "music_score": "music score",
    "silent_share": "silent share",
    "clipped_share": "clipped share",
}
UNKNOWN = "(none named)"
_BARS = 10


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts [B] of videos between edges [B + 1]."""

    words: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Hours are of whole videos."""

    videos: int
    clips: int
    hours: float
    hours_by_split: dict[str, float]
    hours_by_genre: dict[str, float]
    videos_by_licence: dict[str, int]
    histograms: tuple[Histogram, ...]

    def plain(self) -> dict[str, Any]:
        return vars(self) | {"histograms": [vars(histogram) for histogram in self.histograms]}


def per_video(clips: pa.Table) -> dict[str, np.ndarray]:
    """The measured columns that the table has, as means over the clips of each video [N], by video id."""
    names = [name for name in MEASURED if name in clips.column_names]
    means = clips.group_by("video_id").aggregate([(name, "mean") for name in names]).sort_by("video_id")
    return {name: _numbers(means[f"{name}_mean"]) for name in names}


def stats(clips: pa.Table) -> Stats:
    """The figures of a clips table."""
    videos = _videos(clips)
    hours = np.nan_to_num(_numbers(videos["video_seconds"])) / 3600
    columns = per_video(clips)
    columns["tempo"] = columns.get("tempo", np.empty(0))
    columns["tempo"] = columns["tempo"][columns["tempo"] > 0]  # 0: no beat
    licences = _words(videos, "licence")
    return Stats(
        videos=len(videos),
        clips=len(clips),
        hours=float(hours.sum()),
        hours_by_split=_sums(_words(videos, "split"), hours),
        hours_by_genre=_sums(_words(videos, "genre"), hours),
        videos_by_licence={name: int(count) for name, count in _sums(licences, np.ones(len(videos))).items()},
        histograms=tuple(_histogram(MEASURED[name], values) for name, values in columns.items() if len(values)),
    )


def _videos(clips: pa.Table) -> pa.Table:
    """One row a video, by video id."""
    names = [name for name in ("video_seconds", "split", "genre", "licence") if name in clips.column_names]
    table = clips.group_by("video_id", use_threads=False).aggregate([(name, "first") for name in names])
    return table.rename_columns([name.removesuffix("_first") for name in table.column_names]).sort_by("video_id")


def _words(videos: pa.Table, name: str) -> list[str]:
    if name not in videos.column_names:
        return [UNKNOWN] * len(videos)
    return [word or UNKNOWN for word in videos[name].to_pylist()]


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy().astype(np.float64)


def _sums(names: list[str], values: np.ndarray) -> dict[str, float]:
    """Values added up by name, the largest sum first."""
    found: dict[str, float] = {}
    for name, value in zip(names, values.tolist(), strict=True):
        found[name] = found.get(name, 0.0) + value
    return by_size(found)


def by_size(sums: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(sums.items(), key=lambda pair: (-pair[1], pair[0])))


def _histogram(words: str, values: np.ndarray) -> Histogram:
    values = values[np.isfinite(values)]
    if len(values) and values.min() == values.max():
        return Histogram(words=words, edges=(float(values[0]),) * 2, counts=(len(values),))
    counts, edges = np.histogram(values, bins=_BARS)
    return Histogram(words=words, edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))
