"""Groups of videos that must share a split, and the memory that keeps a group where it is.

A group is named by the id of one of its videos; whether it is held out follows from that name. Once a video has been
given a group it keeps it, even after it left the catalogue, so that no growth moves anything. Only where a new video
shows that two groups are one must one of them move: then it is the one that lies nearer to being held out, so that
what models may have learnt from already never comes to judge them.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from v2meow.data.manifest import DataError, fraction
from v2meow.files import atomic_file

SCHEMA = pa.schema([("video_id", pa.string()), ("group", pa.string())])


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """The group of each video ever seen, and those that moved, by group: old name to new."""

    group_of: dict[str, str]
    merged: dict[str, str]


def assign(known: Mapping[str, str], together: Sequence[Sequence[str]]) -> Grouping:
    """Groups for videos of which each list in `together` belongs together, given those known from before."""
    group_of, merged = dict(known), {}
    for videos in together:
        before = sorted({_latest(merged, group_of[video]) for video in videos if video in group_of}, key=fraction)
        name = before[-1] if before else min(videos)
        merged |= dict.fromkeys(before[:-1], name)
        group_of |= dict.fromkeys(videos, name)
    return Grouping(group_of={video: _latest(merged, group) for video, group in group_of.items()}, merged=merged)


def read(path: Path) -> dict[str, str]:
    """The groups of videos seen before; none without a file. DataError for a file that is not ours."""
    if not path.exists():
        return {}
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} is not a Parquet file: {error}; restore it from git or DVC") from error
    if table.schema != SCHEMA:
        raise DataError(f"{path} has other columns than this version writes: restore it from git or DVC")
    return dict(zip(table["video_id"].to_pylist(), table["group"].to_pylist(), strict=True))


def write(path: Path, group_of: Mapping[str, str]) -> None:
    """Write the groups, sorted by video, atomically."""
    videos = sorted(group_of)
    with atomic_file(path) as temporary:
        pq.write_table(pa.table([videos, [group_of[video] for video in videos]], schema=SCHEMA), temporary)


def members(first: Sequence[int], names: Sequence[str]) -> list[list[str]]:
    """Lists of names that share a number."""
    found: dict[int, list[str]] = defaultdict(list)
    for number, name in zip(first, names, strict=True):
        found[number].append(name)
    return list(found.values())


def _latest(merged: Mapping[str, str], group: str) -> str:
    while group in merged:
        group = merged[group]
    return group
