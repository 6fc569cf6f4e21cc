"""The step `check-features`: the examples against the recipe and the clips, and against those of the last version."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from v2meow.config import Recipe
from v2meow.data import quarantine
from v2meow.data.checks import suites
from v2meow.data.checks.run import run
from v2meow.data.checks.verdict import REPORTS, conclude
from v2meow.data.drift import against, profile
from v2meow.data.manifest import EXAMPLES, FAILED, DataError, read_clips_table, read_failed
from v2meow.data.stats import per_video
from v2meow.files import write_json
from v2meow.workspace import committed

_REPORT = REPORTS / "features.json"


def check_features(recipe: Recipe, workspace: Path) -> dict[str, Any]:
    """Check data/examples against the recipe and the clips table; write reports/features.json and drift.json.

    Every clip out of quarantine must have one example or a reason in data/examples/failed.csv. `*_usage` are the shares
    of a codebook's entries that occur at all, `*_entropy` those of the greatest entropy that so many ids could have.
    DataError names what blocks. Drift is told against the report that git has of the last version, and only told.
    """
    table = read_clips_table(workspace)
    held = {row.clip_id for row in quarantine.read(workspace)}
    clips = table.select(["clip_id", "video_id", "split"]).to_pandas()
    clips = clips[~clips["clip_id"].isin(held)].reset_index(drop=True)
    failed = read_failed(workspace / FAILED) if (workspace / FAILED).exists() else {}
    used = {
        "semantic": np.zeros((1, recipe.semantic_ids.clusters), dtype=np.int64),
        "codes": np.zeros((recipe.codec.levels, recipe.codec.bins), dtype=np.int64),
    }
    examples = pd.DataFrame(_facts(recipe, row, used) for row in _example_rows(recipe, workspace / EXAMPLES))
    if examples.empty:
        raise DataError(f"no examples in {workspace / EXAMPLES}: run `v2meow extract` first")
    examples["in_clips_table"] = _identity(examples).isin(_identity(clips))
    counts = examples["clip_id"].value_counts()
    clips["accounted_for"] = clips["clip_id"].map(counts).fillna(0) + clips["clip_id"].isin(list(failed))
    usage = {name: (counts > 0).mean(axis=1).tolist() for name, counts in used.items()}
    entropy = {name: [_entropy(level) for level in counts] for name, counts in used.items()}
    figures = {
        "examples": len(examples),
        "failed_share": len(failed) / max(len(clips), 1),
        "semantic_usage": usage["semantic"][0],
        "codes_usage": usage["codes"],
        "semantic_entropy": entropy["semantic"][0],
        "codes_entropy": entropy["codes"],
        "dead_codes": {name: int((counts == 0).sum()) for name, counts in used.items()},
    }
    least = {name: min(value) if isinstance(value, list) else value for name, value in figures.items()}
    of_examples, _ = run([examples], suites.examples(recipe), "examples", "clip_id")
    of_clips, _ = run([clips], suites.coverage(), "clips", "clip_id")
    together, _ = run([pd.DataFrame([least])], suites.codebooks(recipe), "examples")
    profiles = {name: asdict(profile(values)) for name, values in _columns(table, examples).items()}
    tables = {"examples": of_examples, "clips": of_clips, "codebooks": together}
    summary = conclude(workspace, "features", "the examples", figures | {"profiles": profiles}, tables)
    summary.pop("profiles")
    return summary | {"shifted": _tell_drift(workspace, _columns(table, examples))}


def _columns(clips: pa.Table, examples: pd.DataFrame) -> dict[str, np.ndarray]:
    """What is compared between versions, a value a video [N]: the clips' figures, and the mean of each feature."""
    means = examples.groupby("video_id")[[name for name in examples if str(name).endswith("_mean")]].mean()
    return per_video(clips) | {str(name): np.asarray(means[name]) for name in means}


def _tell_drift(workspace: Path, columns: dict[str, np.ndarray]) -> list[str]:
    """Write reports/drift.json, an empty comparison where there is no version before; a sentence a shifted column."""
    before = committed(workspace, _REPORT.as_posix())
    found = against(before, columns)
    write_json(workspace / REPORTS / "drift.json", {name: asdict(one) for name, one in found.items()})
    return [one.sentence(name) for name, one in found.items() if one.shifted]


def _identity(frame: pd.DataFrame) -> pd.Series:
    """What an example and its clip must agree on."""
    return frame["clip_id"] + " of " + frame["video_id"] + " in " + frame["split"]


def _entropy(counts: np.ndarray) -> float:
    """Of counts [N], in shares of what as many ids over as many entries can have at most; 0 … 1."""
    total = int(counts.sum())
    most = min(total, len(counts))
    if most < 2:
        return 0.0
    shares = counts[counts > 0] / total
    return float((shares * -np.log(shares)).sum() / np.log(most)) + 0.0  # never -0.0


def _example_rows(recipe: Recipe, folder: Path) -> Iterator[dict[str, pa.Scalar]]:
    columns = ["clip_id", "video_id", "split", "semantic", "codes", "joint", *suites.visual_frames(recipe)]
    for path in sorted(folder.glob("*.parquet")):
        shard = pq.ParquetFile(path)
        missing = set(columns) - set(shard.schema_arrow.names)
        if missing:
            raise DataError(f"{path} lacks the columns {', '.join(sorted(missing))}: run `v2meow extract` again")
        for batch in shard.iter_batches(batch_size=1024, columns=columns):
            for index in range(batch.num_rows):
                yield {name: batch.column(name)[index] for name in columns}


def _facts(recipe: Recipe, row: dict[str, pa.Scalar], used: dict[str, np.ndarray]) -> dict[str, Any]:
    """What there is to check in one example, as plain values; how often each entry occurs is added to `used` [K, N]."""
    facts: dict[str, Any] = {name: row[name].as_py() for name in ("clip_id", "video_id", "split")}
    for name, entries in used.items():
        ids = _values(row[name])
        inside = (ids >= 0) & (ids < entries.shape[1])
        facts |= {f"{name}_length": ids.size, f"{name}_outside": int((~inside).sum())}
        if inside.all() and ids.size % len(entries) == 0:
            for level, ids_of_level in zip(entries, ids.reshape(len(entries), -1), strict=True):
                level += np.bincount(ids_of_level, minlength=len(level))
    for name in ("joint", *suites.visual_frames(recipe)):
        values = _values(row[name])
        facts |= {f"{name}_length": values.size, f"{name}_not_finite": int((~np.isfinite(values)).sum())}
        facts[f"{name}_mean"] = float(values.mean()) if values.size else np.nan
    for name, frames in suites.visual_frames(recipe).items():
        length = facts[f"{name}_length"]
        facts[f"{name}_ragged"] = length == 0 or length % frames > 0
    return facts


def _values(cell: Any) -> np.ndarray:
    """The numbers of a list cell [N]; a missing list is an empty one, a missing number is NaN."""
    return np.empty(0, dtype=int) if cell.values is None else cell.values.to_numpy(zero_copy_only=False)
