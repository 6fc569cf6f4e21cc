"""What is demanded of the catalogue and of the examples made from it, before anything is trained.

The only home of Great Expectations: expectations are data, one function runs them over a frame.
A failed critical expectation stops the pipeline, after the report of all of them was written; a
failed warning is only reported. Knows the columns, not how they came about.
"""

# pyright: reportPrivateImportUsage=false
# (Great Expectations does not mark its public names for type checkers.)

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from v2meow.config import Recipe
from v2meow.data.manifest import (
    CLIP_SLACK_S,
    EXAMPLES,
    FAILED,
    REJECTED,
    SCHEMA,
    DataError,
    read_clips_table,
    read_failed,
    read_rejected,
)
from v2meow.files import write_json

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read when Great Expectations is imported

import great_expectations as gx
from great_expectations import expectations as gxe
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.expectations.expectation import Expectation

_EXAMPLES_SHOWN = 5


def validate(recipe: Recipe, workspace: Path) -> dict[str, Any]:
    """Check the clips table and write reports/validate.json; DataError names what failed critically."""
    clips = read_clips_table(workspace).to_pandas()
    clips["splits_of_video"] = clips.groupby("video_id")["split"].transform("nunique")
    clips["overhang"] = (clips["start"] + clips["seconds"] - clips["video_seconds"]).round(6)
    clips["pixels"] = clips["width"].astype(float) * clips["height"]
    videos = clips.drop_duplicates("video_id")
    rejected = len(read_rejected(workspace / REJECTED))
    figures = {
        "clips": len(clips),
        "videos": len(videos),
        "holdout_videos": int((videos["split"] == "holdout").sum()),
        "train_videos": int((videos["split"] == "train").sum()),
        "rejected_share": rejected / max(rejected + len(videos), 1),
    }
    outcomes = [
        *_outcomes(clips, _clip_expectations(recipe)),
        *_outcomes(pd.DataFrame([figures]), _catalogue_expectations(recipe)),
    ]
    return _conclude(workspace / "reports" / "validate.json", "the clips table", figures, outcomes)


def check_features(recipe: Recipe, workspace: Path) -> dict[str, Any]:
    """Check data/examples against the recipe and the clips table and write reports/features.json.

    Every clip must have one example or a reason in data/examples/failed.csv. `*_usage` are the shares of
    a codebook's entries that occur at all. DataError names what failed critically.
    """
    clips = read_clips_table(workspace).to_pandas()
    failed = read_failed(workspace / FAILED) if (workspace / FAILED).exists() else {}
    used = {
        "semantic": np.zeros((1, recipe.semantic_ids.clusters), dtype=bool),
        "codes": np.zeros((recipe.codec.levels, recipe.codec.bins), dtype=bool),
    }
    examples = pd.DataFrame(_facts(recipe, row, used) for row in _example_rows(recipe, workspace / EXAMPLES))
    if examples.empty:
        raise DataError(f"no examples in {workspace / EXAMPLES}: run `v2meow extract` first")
    examples["in_clips_table"] = _identity(examples).isin(_identity(clips))
    counts = examples["clip_id"].value_counts()
    clips["accounted_for"] = clips["clip_id"].map(counts).fillna(0) + clips["clip_id"].isin(list(failed))
    figures = {
        "examples": len(examples),
        "failed_share": len(failed) / len(clips),
        "semantic_usage": float(used["semantic"].mean()),
        "codes_usage": used["codes"].mean(axis=1).tolist(),
    }
    most = recipe.checks.max_rejected_share
    outcomes = [
        *_outcomes(examples, _example_expectations(recipe)),
        *_outcomes(clips, [_equals("accounted_for", 1, "every clip has one example or one reason why not")]),
        *_outcomes(
            pd.DataFrame([figures]),
            [_figure("failed_share", f"at most {most:.0%} of the clips fail in extraction", high=most)],
        ),
    ]
    return _conclude(workspace / "reports" / "features.json", "the examples", figures, outcomes)


def _identity(frame: pd.DataFrame) -> pd.Series:
    """What an example and its clip must agree on."""
    return frame["clip_id"] + " of " + frame["video_id"] + " in " + frame["split"]


def _clip_expectations(recipe: Recipe) -> list[Expectation]:
    data, media = recipe.data, recipe.media
    return [
        *(gxe.ExpectColumnValuesToNotBeNull(column=name, description=f"{name} is given") for name in SCHEMA.names),
        gxe.ExpectColumnValuesToBeUnique(column="clip_id", description="clip ids are unique"),
        gxe.ExpectColumnValuesToBeInSet(
            column="split", value_set=["train", "holdout"], description="splits are train or holdout"
        ),
        _equals("splits_of_video", 1, "no video is in both splits"),
        _equals("seconds", data.clip_seconds, "clips have the recipe's length"),
        _between("start", "clips start inside the video", low=0),
        _between("overhang", "clips end with their video", high=CLIP_SLACK_S),
        _between("video_seconds", "videos are within the limit of length", high=media.max_seconds),
        _between("pixels", "pictures are within the limit of size", low=1, high=media.max_pixels),
        _between("fps", "frame rates are plausible", low=0.01, high=1000),
        _between("sample_rate", "sample rates are plausible", low=4_000, high=384_000),
        _between("channels", "soundtracks have channels", low=1),
        _between("loudness_db", "loudness is at most full scale", high=0),
        _between(
            "loudness_db",
            "most clips are not silent",
            low=data.min_loudness_db,
            mostly=1 - recipe.checks.max_silent_share,
            severity="warning",
        ),
        _between(
            "sample_rate",
            "soundtracks reach the codec's sample rate",
            low=recipe.codec.sample_rate,
            severity="warning",
        ),
        gxe.ExpectColumnValuesToBeJsonParseable(column="attributes", description="attributes are JSON"),
    ]


def _catalogue_expectations(recipe: Recipe) -> list[Expectation]:
    checks = recipe.checks
    return [
        _figure("clips", f"there are at least {checks.min_clips} clips", low=checks.min_clips),
        _figure(
            "holdout_videos",
            f"at least {checks.min_holdout_videos} videos are held out",
            low=checks.min_holdout_videos,
        ),
        _figure("train_videos", "a video is left to train on", low=1),
        _figure(
            "rejected_share",
            f"at most {checks.max_rejected_share:.0%} of the files are rejected",
            high=checks.max_rejected_share,
        ),
    ]


def _example_expectations(recipe: Recipe) -> list[Expectation]:
    lengths = {"semantic": recipe.semantic_frames, "codes": recipe.codec.levels * recipe.codec_frames}
    return [
        gxe.ExpectColumnValuesToBeUnique(column="clip_id", description="a clip has one example"),
        _equals("in_clips_table", True, "examples are of the clips table, with its video and split"),
        *(_equals(f"{name}_length", length, f"{name} has {length} values") for name, length in lengths.items()),
        *(_equals(f"{name}_outside", 0, f"{name} ids are entries of the codebook") for name in ("semantic", "codes")),
        *(_equals(f"{name}_not_finite", 0, f"{name} is finite") for name in ("joint", *_visual_frames(recipe))),
        *(
            _equals(f"{name}_ragged", False, f"{name} has {frames} frames of one width")
            for name, frames in _visual_frames(recipe).items()
        ),
        _between("joint_length", "joint is given", low=1),
        *(
            gxe.ExpectColumnUniqueValueCountToBeBetween(
                column=f"{name}_length", max_value=1, description=f"{name} has one width in all examples"
            )
            for name in ("joint", *_visual_frames(recipe))
        ),
    ]


def _equals(column: str, value: Any, rule: str) -> Expectation:
    return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[value], description=rule)


def _between(
    column: str, rule: str, low: float | None = None, high: float | None = None, **options: Any
) -> Expectation:
    return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high, description=rule, **options)


def _figure(column: str, rule: str, low: float | None = None, high: float | None = None) -> Expectation:
    """As `_between`, of the one row of figures: its value is reported whether it passes or not."""
    return gxe.ExpectColumnMaxToBeBetween(column=column, min_value=low, max_value=high, description=rule)


def _visual_frames(recipe: Recipe) -> dict[str, int]:
    """Frames V of each visual column of the examples."""
    return {f"visual_{visual.kind}": round(recipe.data.clip_seconds * visual.rate) for visual in recipe.visual}


def _example_rows(recipe: Recipe, folder: Path) -> Iterator[dict[str, pa.Scalar]]:
    columns = ["clip_id", "video_id", "split", "semantic", "codes", "joint", *_visual_frames(recipe)]
    for path in sorted(folder.glob("*.parquet")):
        shard = pq.ParquetFile(path)
        missing = set(columns) - set(shard.schema_arrow.names)
        if missing:
            raise DataError(f"{path} lacks the columns {', '.join(sorted(missing))}: run `v2meow extract` again")
        for batch in shard.iter_batches(batch_size=1024, columns=columns):
            for index in range(batch.num_rows):
                yield {name: batch.column(name)[index] for name in columns}


def _facts(recipe: Recipe, row: dict[str, pa.Scalar], used: dict[str, np.ndarray]) -> dict[str, Any]:
    """What there is to check in one example, as plain values; entries that occur are marked in `used` [K, N]."""
    facts: dict[str, Any] = {name: row[name].as_py() for name in ("clip_id", "video_id", "split")}
    for name, entries in used.items():
        ids = _values(row[name])
        inside = (ids >= 0) & (ids < entries.shape[1])
        facts |= {f"{name}_length": ids.size, f"{name}_outside": int((~inside).sum())}
        if inside.all() and ids.size % len(entries) == 0:
            for level, ids_of_level in zip(entries, ids.reshape(len(entries), -1), strict=True):
                level[ids_of_level] = True
    for name in ("joint", *_visual_frames(recipe)):
        values = _values(row[name])
        facts |= {f"{name}_length": values.size, f"{name}_not_finite": int((~np.isfinite(values)).sum())}
    for name, frames in _visual_frames(recipe).items():
        length = facts[f"{name}_length"]
        facts[f"{name}_ragged"] = length == 0 or length % frames > 0
    return facts


def _values(cell: Any) -> np.ndarray:
    """The numbers of a list cell [N]; a missing list is an empty one, a missing number is NaN."""
    return np.empty(0, dtype=int) if cell.values is None else cell.values.to_numpy(zero_copy_only=False)


def _outcomes(frame: pd.DataFrame, expectations: Sequence[Expectation]) -> list[dict[str, Any]]:
    """Run expectations over a frame: one row each, those that fail with ids of clips to look at."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("memory").add_dataframe_asset("frame")
    batch = asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": frame})
    detail: dict[str, Any] = {"result_format": "SUMMARY", "partial_unexpected_count": _EXAMPLES_SHOWN}
    if "clip_id" in frame:
        detail["unexpected_index_column_names"] = ["clip_id"]
    suite = gx.ExpectationSuite(name="checks", expectations=list(expectations))
    results = batch.validate(suite, result_format=detail).results
    return sorted((_outcome(result.to_json_dict()) for result in results), key=lambda row: row["rule"])


def _outcome(result: dict[str, Any]) -> dict[str, Any]:
    config, found = result["expectation_config"], result["result"]
    rows = found.get("partial_unexpected_index_list") or []
    return {
        "rule": config["description"],
        "name": config["type"],
        "column": config["kwargs"]["column"],
        "severity": config["severity"],
        "success": result["success"],
        "observed": found.get("observed_value"),
        "unexpected": found.get("unexpected_count"),
        "examples": list(dict.fromkeys(row["clip_id"] for row in rows)),
    }


def _conclude(path: Path, subject: str, figures: dict[str, Any], outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    """Write the report, then raise DataError when something critical failed. Returns the step's summary."""
    failed = [outcome for outcome in outcomes if not outcome["success"]]
    critical = [outcome for outcome in failed if outcome["severity"] == "critical"]
    write_json(path, {"passed": not critical, "figures": figures, "checks": outcomes})
    if critical:
        what = "; ".join(_sentence(outcome) for outcome in critical)
        raise DataError(f"{subject} failed {len(critical)} of {len(outcomes)} checks: {what}; see reports/{path.name}")
    return figures | {"checks": len(outcomes), "warnings": [_sentence(outcome) for outcome in failed]}


def _sentence(outcome: dict[str, Any]) -> str:
    if outcome["unexpected"] is None:
        return f"{outcome['rule']} (found {outcome['observed']:.3g})"
    some = f", such as {outcome['examples'][0]}" if outcome["examples"] else ""
    return f"{outcome['rule']} (not so for {outcome['unexpected']} clips{some})"
