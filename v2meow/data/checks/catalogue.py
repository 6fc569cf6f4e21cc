"""The step `validate`: files and clips against the recipe; what is left out of training, and whether that is enough.

Reads the clips table in parts. What needs the whole of it at once (is an id listed twice?) is counted before, on the
few columns that it needs.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from v2meow.config import Recipe
from v2meow.data import quarantine
from v2meow.data.checks import suites
from v2meow.data.checks.run import Unfit, run
from v2meow.data.checks.verdict import conclude
from v2meow.data.manifest import RAW, REJECTED, open_clips, read_rejected
from v2meow.data.quarantine import Held

_PART = 65_536  # rows


def validate(recipe: Recipe, workspace: Path) -> dict[str, Any]:
    """Check files and clips; write reports/validate.json, its pages and data/quarantine.parquet.

    DataError names what blocks, after everything was written. `clips`, `videos` and their splits do not count clips in
    quarantine, and a video only as long as it has others.
    """
    whole = _Whole(workspace)
    files, _ = run(_files(recipe, workspace), suites.files(recipe), "files", "path")
    clips, unfit = run(_clips(workspace, whole), suites.clips(recipe), "clips", "clip_id")
    quarantine.write(workspace, [_held(row) for row in unfit])
    figures = whole.figures({row.name for row in unfit}, len(read_rejected(workspace / REJECTED)))
    together, _ = run([pd.DataFrame([figures])], suites.catalogue(recipe), "clips")
    tables = {"catalogue": together, "clips": clips, "files": files}
    return conclude(workspace, "validate", "the clips table", figures, tables)


def _held(row: Unfit) -> Held:
    value = f"{row.value:.4g}" if isinstance(row.value, float) else str(row.value)
    return Held(clip_id=row.name, rule=row.rule, reason=f"{row.column} is {value}")


class _Whole:
    """What is known of each row only from all rows: arrays [N], in the table's order."""

    def __init__(self, workspace: Path) -> None:
        table = open_clips(workspace).read(["clip_id", "video_id", "split", "group"])
        self._clip_id, split, group = (_filled(table[name]) for name in ("clip_id", "split", "group"))
        self._video = _codes(_filled(table["video_id"]))
        self._held_out, self._trained = (_is_in(split, {name}) for name in ("holdout", "train"))
        alone = _is_in(group, {""})  # a video without a group is one
        self.columns = {
            "times_listed": _counts(_codes(self._clip_id)),
            "splits_of_video": _distinct(self._video, _codes(split)),
            "splits_of_group": _distinct(np.where(alone, len(group) + self._video, _codes(group)), _codes(split)),
        }

    def figures(self, held: set[str], rejected: int) -> dict[str, Any]:
        """Of the rows that are not held back; `rejected` files are set against all videos."""
        used = ~_is_in(self._clip_id, held)
        videos = len(np.unique(self._video))
        return {
            "clips": int(used.sum()),
            "videos": len(np.unique(self._video[used])),
            "holdout_videos": len(np.unique(self._video[used & self._held_out])),
            "train_videos": len(np.unique(self._video[used & self._trained])),
            "rejected_share": rejected / max(rejected + videos, 1),
            "quarantined": int((~used).sum()),
            "quarantined_share": float((~used).sum() / max(len(used), 1)),
        }


def _clips(workspace: Path, whole: _Whole) -> Iterator[pd.DataFrame]:
    """The clips table in parts, with what its rules need besides its own columns."""
    first = 0
    for batch in open_clips(workspace).iter_batches(batch_size=_PART):
        clips = batch.to_pandas()
        for name, column in whole.columns.items():
            clips[name] = column[first : first + len(clips)]
        clips["overhang"] = (clips["start"] + clips["seconds"] - clips["video_seconds"]).round(6)
        clips["pixels"] = clips["width"].astype(float) * clips["height"]
        first += len(clips)
        yield clips


def _files(recipe: Recipe, workspace: Path) -> Iterator[pd.DataFrame]:
    """One row a file, in parts: those that clips were made of, then those that were rejected."""
    names = ["path", "video_id", "sha256", "licence"]
    used = open_clips(workspace).read(names).group_by(names).aggregate([]).sort_by("path")
    rejected = read_rejected(workspace / REJECTED)
    nothing = pa.array([None] * len(rejected), pa.string())
    unused = pa.table([pa.array([file.path for file in rejected], pa.string()), nothing, nothing, nothing], names)
    table = pa.concat_tables([used.select(names), unused])
    reasons = pa.array([None] * len(used) + [file.reason for file in rejected], pa.string())
    times = _counts(_codes(_filled(table["path"])))
    for first in range(0, len(table), _PART):
        part = table.slice(first, _PART).to_pandas()
        is_used = part.index.to_numpy() + first < len(used)
        reason = reasons.slice(first, _PART).to_pandas().fillna("").to_numpy()
        part["times_listed"] = times[first : first + len(part)]
        part["in_raw"] = part["path"].fillna("").str.startswith(f"{RAW.as_posix()}/")
        part["reasoned"] = (reason == "") == is_used
        part["named_by_content"] = ~is_used | (part["sha256"].str[:16] == part["video_id"])
        part["licence_allowed"] = ~is_used | _allowed(part["licence"], recipe.data.licences)
        yield part


def _allowed(licences: pd.Series, wanted: tuple[str, ...]) -> np.ndarray:
    from v2meow.data.sidecar import allowed  # it reads media, too, which takes a while to import

    known = {licence: allowed(licence, wanted) for licence in licences.fillna("").unique()}
    return licences.fillna("").map(known).to_numpy(dtype=bool)


def _filled(column: pa.ChunkedArray) -> pa.Array:
    return column.fill_null("").combine_chunks()


def _codes(column: pa.Array) -> np.ndarray:
    """A number for each value, below N and equal for equal values: [N]."""
    return column.dictionary_encode().indices.to_numpy()


def _is_in(column: pa.Array, names: set[str]) -> np.ndarray:
    """Whether each value is one of the names: [N]."""
    if not len(column):
        return np.zeros(0, dtype=bool)
    return np.array([value in names for value in column.dictionary_encode().dictionary.to_pylist()])[_codes(column)]


def _counts(codes: np.ndarray) -> np.ndarray:
    """How often the value of each row occurs: [N]."""
    return np.bincount(codes)[codes] if len(codes) else codes


def _distinct(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """How many values occur with the key of each row: [N]."""
    if not len(keys):
        return keys
    kinds = int(values.max()) + 1
    pairs = np.unique(keys.astype(np.int64) * kinds + values)
    return np.bincount(pairs // kinds)[keys]
