"""What changed between two versions of a catalogue: videos, hours, genres, splits, and how the figures moved.

Knows two clips tables, of whatever edition, not where they come from.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from v2meow.data.drift import Drift, drift, ks, profile, psi_of_names
from v2meow.data.manifest import DataError
from v2meow.data.stats import Stats, per_video, stats


@dataclass(frozen=True, kw_only=True)
class Column:
    """How a figure moved: `ks` is the widest gap of the distributions; `drift` None where there are few videos."""

    ks: float
    drift: Drift | None


@dataclass(frozen=True, kw_only=True)
class Diff:
    """Videos are named by their paths. `replaced`: other content under the same path; `renamed`: old and new path.

    `split_changed`: videos that are in both, in another split. `genre_psi`: how far the videos' genres moved.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    replaced: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...]
    split_changed: tuple[str, ...]
    before: Stats
    after: Stats
    genre_psi: float
    columns: dict[str, Column]

    def plain(self) -> dict[str, Any]:
        """As JSON takes it."""
        parts = {"before": self.before.plain(), "after": self.after.plain()}
        return vars(self) | parts | {"columns": {name: asdict(column) for name, column in self.columns.items()}}


def read_table(path: Path) -> pa.Table:
    """A clips table of any edition. DataError when it is none."""
    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is no table of clips: {error}") from error
    if missing := {"video_id", "path", "split", "video_seconds"} - set(table.column_names):
        raise DataError(f"{path} is no table of clips: it lacks {', '.join(sorted(missing))}")
    return table


def diff(before: pa.Table, after: pa.Table) -> Diff:
    """What `after` has otherwise than `before`."""
    old, new = _videos(before), _videos(after)
    old_paths, new_paths = {path for path, _ in old.values()}, {path for path, _ in new.values()}
    shared = old.keys() & new.keys()
    gone, come = [old[video][0] for video in old.keys() - new.keys()], [new[v][0] for v in new.keys() - old.keys()]
    statistics = stats(before), stats(after)
    genres = [statistic.hours_by_genre for statistic in statistics]
    was, now = per_video(before), per_video(after)
    return Diff(
        added=tuple(sorted(path for path in come if path not in old_paths)),
        removed=tuple(sorted(path for path in gone if path not in new_paths)),
        replaced=tuple(sorted(path for path in come if path in old_paths)),
        renamed=tuple(sorted((old[video][0], new[video][0]) for video in shared if old[video][0] != new[video][0])),
        split_changed=tuple(sorted(new[video][0] for video in shared if old[video][1] != new[video][1])),
        before=statistics[0],
        after=statistics[1],
        genre_psi=psi_of_names(*genres),
        columns={name: _column(was[name], now[name]) for name in was if name in now},
    )


def _videos(clips: pa.Table) -> dict[str, tuple[str, str]]:
    """Path and split of each video."""
    rows = zip(*(clips[name].to_pylist() for name in ("video_id", "path", "split")), strict=True)
    return {video: (path, split) for video, path, split in rows}


def _column(before: np.ndarray, after: np.ndarray) -> Column:
    return Column(ks=ks(before, after), drift=drift(profile(before), after))
