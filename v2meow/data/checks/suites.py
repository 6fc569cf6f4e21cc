"""The demands themselves, as Great Expectations' expectations: on files, on clips, on examples, on all together.

What a failed one does is written as its severity: critical blocks the step, warning quarantines the rows that it is
about, info only warns. Knows the columns, not how they came about.
"""

# pyright: reportPrivateImportUsage=false
# (Great Expectations does not mark its public names for type checkers.)

import os
from typing import Any

from v2meow.config import Recipe
from v2meow.data.manifest import CLIP_SLACK_S, SCHEMA

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read when Great Expectations is imported

from great_expectations import expectations as gxe
from great_expectations.expectations.expectation import Expectation

ACTIONS = {"critical": "block", "warning": "quarantine", "info": "warn"}  # by severity
_BLOCK, _QUARANTINE, _WARN = ACTIONS
_LUFS = (-70.0, 12.0)  # the gate below which nothing is counted, and a square wave at full scale with room to spare


def files(recipe: Recipe) -> list[Expectation]:
    """On every file under data/raw that ingest looked at, one row each, used or rejected."""
    rules = [
        _equals("times_listed", 1, "a file is listed once"),
        _equals("in_raw", True, "files lie under data/raw"),
        _equals("reasoned", True, "rejected files have a reason, used ones have none"),
        _equals("named_by_content", True, "a video is named by its content"),
    ]
    if recipe.data.licences:
        wanted = ", ".join(recipe.data.licences)
        rules.append(_equals("licence_allowed", True, f"used videos are licensed as {wanted}"))
    return rules


def clips(recipe: Recipe) -> list[Expectation]:
    """On every row of the clips table."""
    return [*_sound_rows(recipe), *_plausible(recipe), *_worth_learning(recipe), *_hoped_for(recipe)]


def _sound_rows(recipe: Recipe) -> list[Expectation]:
    """Without these the table is broken, or what is measured on held-out videos is worth nothing."""
    data = recipe.data
    return [
        *(gxe.ExpectColumnValuesToNotBeNull(column=name, description=f"{name} is given") for name in SCHEMA.names),
        _equals("times_listed", 1, "clip ids are unique"),
        gxe.ExpectColumnValuesToBeInSet(
            column="split", value_set=["train", "holdout"], description="splits are train or holdout"
        ),
        _equals("splits_of_video", 1, "no video is in both splits"),
        _equals("splits_of_group", 1, "no group of near-copies is in both splits"),
        _equals("seconds", data.clip_seconds, "clips have the recipe's length"),
        _between("start", "clips start inside the video", low=0),
        _between("overhang", "clips end with their video", high=CLIP_SLACK_S),
        gxe.ExpectColumnValuesToBeJsonParseable(column="attributes", description="attributes are JSON"),
    ]


def _plausible(recipe: Recipe) -> list[Expectation]:
    """Ingest lets nothing else pass, so that a failure is a fault of the program or an edited table."""
    media = recipe.media
    return [
        _between("video_seconds", "videos are within the limit of length", high=media.max_seconds),
        _between("pixels", "pictures are within the limit of size", low=1, high=media.max_pixels),
        _between("fps", "frame rates are plausible", low=0.01, high=1000),
        _between("sample_rate", "sample rates are plausible", low=4_000, high=384_000),
        _between("channels", "soundtracks have channels", low=1),
        _between("loudness_db", "loudness is at most full scale", high=0),
        _between("lufs", "loudness in LUFS is plausible", low=_LUFS[0], high=_LUFS[1]),
        *(
            _between(name, f"{name} is a share", low=0, high=1)
            for name in ("silent_share", "clipped_share", "music_score")
        ),
        _between("tempo", "tempo is plausible", low=0, high=300),
    ]


def _worth_learning(recipe: Recipe) -> list[Expectation]:
    """A clip that fails one of these is left out of training; the others are not the worse for it."""
    checks = recipe.checks
    return [
        _between("silent_share", "the clip is not silent", high=checks.max_clip_silence, severity=_QUARANTINE),
        _between("clipped_share", "the clip is not clipped", high=checks.max_clip_clipping, severity=_QUARANTINE),
        _between("lufs", "the clip can be heard", low=checks.min_clip_lufs, severity=_QUARANTINE),
        _between("music_score", "the clip is music", low=checks.min_music_score, severity=_QUARANTINE),
    ]


def _hoped_for(recipe: Recipe) -> list[Expectation]:
    return [
        _between(
            "loudness_db",
            "most clips are not silent",
            low=recipe.data.min_loudness_db,
            mostly=1 - recipe.checks.max_silent_share,
            severity=_WARN,
        ),
        _between(
            "sample_rate", "soundtracks reach the codec's sample rate", low=recipe.codec.sample_rate, severity=_WARN
        ),
    ]


def catalogue(recipe: Recipe) -> list[Expectation]:
    """On the one row of figures of the whole catalogue, after what is quarantined was left out."""
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
        _figure(
            "quarantined_share",
            f"at most {checks.max_quarantined_share:.0%} of the clips are quarantined",
            high=checks.max_quarantined_share,
        ),
    ]


def examples(recipe: Recipe) -> list[Expectation]:
    """On the facts of every example."""
    lengths = {"semantic": recipe.semantic_frames, "codes": recipe.codec.levels * recipe.codec_frames}
    visual = visual_frames(recipe)
    return [
        gxe.ExpectColumnValuesToBeUnique(column="clip_id", description="a clip has one example"),
        _equals("in_clips_table", True, "examples are of the clips table, with its video and split"),
        *(_equals(f"{name}_length", length, f"{name} has {length} values") for name, length in lengths.items()),
        *(_equals(f"{name}_outside", 0, f"{name} ids are entries of the codebook") for name in lengths),
        *(_equals(f"{name}_not_finite", 0, f"{name} is finite") for name in ("joint", *visual)),
        *(
            _equals(f"{name}_ragged", False, f"{name} has {frames} frames of one width")
            for name, frames in visual.items()
        ),
        _between("joint_length", "joint is given", low=1),
        *(
            gxe.ExpectColumnUniqueValueCountToBeBetween(
                column=f"{name}_length", max_value=1, description=f"{name} has one width in all examples"
            )
            for name in ("joint", *visual)
        ),
    ]


def coverage() -> list[Expectation]:
    """On every clip that is not quarantined, against the examples."""
    return [_equals("accounted_for", 1, "every clip has one example or one reason why not")]


def codebooks(recipe: Recipe) -> list[Expectation]:
    """On the one row of figures of all examples."""
    checks, most = recipe.checks, recipe.checks.max_rejected_share
    rules = [_figure("failed_share", f"at most {most:.0%} of the clips fail in extraction", high=most)]
    for name in ("semantic", "codes"):
        usage, entropy = checks.min_codebook_usage, checks.min_codebook_entropy
        rules += [
            _figure(f"{name}_usage", f"{name} uses {usage:.0%} of each codebook", low=usage, severity=_WARN),
            _figure(f"{name}_entropy", f"{name} has {entropy:.0%} of the entropy", low=entropy, severity=_WARN),
        ]
    return rules


def visual_frames(recipe: Recipe) -> dict[str, int]:
    """Frames V of each visual column of the examples."""
    return {f"visual_{visual.kind}": round(recipe.data.clip_seconds * visual.rate) for visual in recipe.visual}


def _equals(column: str, value: Any, rule: str) -> Expectation:
    return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[value], description=rule)


def _between(
    column: str, rule: str, low: float | None = None, high: float | None = None, **options: Any
) -> Expectation:
    return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high, description=rule, **options)


def _figure(column: str, rule: str, low: float | None = None, high: float | None = None, **options: Any) -> Expectation:
    """As `_between`, of the one row of figures: its value is reported whether it passes or not."""
    return gxe.ExpectColumnMaxToBeBetween(column=column, min_value=low, max_value=high, description=rule, **options)
