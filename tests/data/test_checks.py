"""Every demand on the catalogue and its examples fails on a planted fault, and only then."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from v2meow.data.checks import check_features, validate
from v2meow.data.manifest import (
    CLIPS,
    EXAMPLES,
    FAILED,
    REJECTED,
    SCHEMA,
    DataError,
    RejectedFile,
    read_clips,
    write_clips,
    write_failed,
    write_rejected,
)


@pytest.fixture
def workspace(tmp_path, make_clip):
    """Eight sound videos of two clips each, and one rejected file."""
    write_clips(tmp_path / CLIPS, [make_clip(video, index) for video in range(8) for index in range(2)])
    write_rejected(tmp_path / REJECTED, [RejectedFile("data/raw/notes.txt", "not a video")])
    return tmp_path


def _report(workspace, name):
    return json.loads((workspace / "reports" / f"{name}.json").read_text())


def _failed_rules(workspace, name):
    return {check["rule"] for check in _report(workspace, name)["checks"] if not check["success"]}


def _replant(workspace, row, **planted):
    """Change one row of the clips table behind the back of write_clips, nulls included."""
    rows = pq.ParquetFile(workspace / CLIPS).read().to_pylist()
    rows[row] |= planted
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), workspace / CLIPS)


def test_a_sound_catalogue_passes(workspace, nano):
    """A check that fails on good data teaches people to ignore it."""
    summary = validate(nano, workspace)
    report = _report(workspace, "validate")
    assert summary["warnings"] == [] and report["passed"]
    assert report["figures"] == {
        "clips": 16,
        "videos": 8,
        "holdout_videos": 2,
        "train_videos": 6,
        "rejected_share": 1 / 9,
    }
    assert summary["checks"] == len(report["checks"]) and all(check["success"] for check in report["checks"])


@pytest.mark.parametrize(
    ("planted", "rule"),
    [
        ({"clip_id": f"{0:016x}-0000"}, "clip ids are unique"),
        ({"split": "train"}, "no video is in both splits"),
        ({"split": "validation"}, "splits are train or holdout"),
        ({"seconds": 3.5}, "clips have the recipe's length"),
        ({"start": -0.5}, "clips start inside the video"),
        ({"start": 56.1}, "clips end with their video"),
        ({"video_seconds": 8000.0}, "videos are within the limit of length"),
        ({"width": 0}, "pictures are within the limit of size"),
        ({"height": 1_000_000}, "pictures are within the limit of size"),
        ({"width": 65_536, "height": 65_537}, "pictures are within the limit of size"),  # 65,536 in 32 bits
        ({"fps": 0.0}, "frame rates are plausible"),
        ({"sample_rate": 2147483647}, "sample rates are plausible"),
        ({"channels": 0}, "soundtracks have channels"),
        ({"loudness_db": 3.0}, "loudness is at most full scale"),
        ({"loudness_db": float("nan")}, "loudness_db is given"),
        ({"caption": None}, "caption is given"),
        ({"attributes": "{'tempo': 90}"}, "attributes are JSON"),
    ],
)
def test_a_planted_fault_of_a_clip_stops_the_run(workspace, nano, planted, rule):
    """A check that cannot fail is worse than none: it is trusted."""
    _replant(workspace, 1, **planted)
    with pytest.raises(DataError) as error:
        validate(nano, workspace)
    assert rule in str(error.value) and "\n" not in str(error.value)
    assert _failed_rules(workspace, "validate") >= {rule} and not _report(workspace, "validate")["passed"]


def test_the_report_names_the_clip_to_look_at(workspace, nano):
    """ "One of a million clips is wrong" helps nobody."""
    _replant(workspace, 5, fps=-1.0)
    with pytest.raises(DataError, match="0000000000000002-0001"):
        validate(nano, workspace)
    check = next(check for check in _report(workspace, "validate")["checks"] if not check["success"])
    assert check == {
        "rule": "frame rates are plausible",
        "name": "expect_column_values_to_be_between",
        "column": "fps",
        "severity": "critical",
        "success": False,
        "observed": None,
        "unexpected": 1,
        "examples": ["0000000000000002-0001"],
    }


@pytest.mark.parametrize(
    ("planted", "rule"),
    [
        ({"loudness_db": -80.0}, "most clips are not silent"),
        ({"sample_rate": 8000}, "soundtracks reach the codec's sample rate"),
    ],
)
def test_a_warning_is_reported_and_stops_nothing(workspace, nano, planted, rule):
    """Great Expectations calls a run with a failed warning unsuccessful; the pipeline must go on."""
    for row in range(3):
        _replant(workspace, row, **planted)
    summary = validate(nano, workspace)
    assert len(summary["warnings"]) == 1 and summary["warnings"][0].startswith(rule)
    assert _failed_rules(workspace, "validate") == {rule} and _report(workspace, "validate")["passed"]


@pytest.mark.parametrize(
    ("checks", "rule"),
    [
        ({"min_clips": 17}, r"at least 17 clips \(found 16\)"),
        ({"min_holdout_videos": 3}, r"at least 3 videos are held out \(found 2\)"),
        ({"max_rejected_share": 0.1}, r"at most 10% of the files are rejected \(found 0\.111\)"),
    ],
)
def test_demands_on_the_whole_catalogue_come_from_the_recipe(workspace, nano, checks, rule):
    """A threshold that the recipe sets and nothing reads would promise a check that is not there."""
    strict = dataclasses.replace(nano, checks=dataclasses.replace(nano.checks, **checks))
    with pytest.raises(DataError, match=rule):
        validate(strict, workspace)


def test_a_catalogue_without_training_videos_is_refused(workspace, nano, make_clip):
    """Training on nothing would fail much later and less clearly."""
    write_clips(workspace / CLIPS, [make_clip(video, split="holdout") for video in range(8)])
    with pytest.raises(DataError, match="a video is left to train on"):
        validate(nano, workspace)


@pytest.fixture
def examples(workspace, nano):
    """One sound example a clip, as rows that a test may spoil before `_write_examples`."""
    generator = np.random.default_rng(0)
    frames = round(nano.data.clip_seconds * nano.visual[0].rate)
    return [
        {
            "clip_id": clip.clip_id,
            "video_id": clip.video_id,
            "split": clip.split,
            "caption": clip.caption,
            "attributes": json.dumps(clip.attributes),
            "semantic": generator.integers(nano.semantic_ids.clusters, size=nano.semantic_frames).tolist(),
            "codes": generator.integers(nano.codec.bins, size=nano.codec.levels * nano.codec_frames).tolist(),
            "visual_motion": generator.normal(size=frames * 5).tolist(),
            "joint": generator.normal(size=32).tolist(),
        }
        for clip in read_clips(workspace)
    ]


def _write_examples(workspace, rows, shards=2):
    """Write `rows` in shards with the columns of the data contract."""
    (workspace / EXAMPLES).mkdir(parents=True, exist_ok=True)
    types = dict.fromkeys(("semantic", "codes"), pa.list_(pa.int32()))
    types |= dict.fromkeys(("visual_motion", "joint"), pa.list_(pa.float32()))
    schema = pa.schema([(name, types.get(name, pa.string())) for name in rows[0]])
    for shard in range(shards):
        table = pa.Table.from_pylist(rows[shard::shards], schema)
        pq.write_table(table, workspace / EXAMPLES / f"{shard:05d}.parquet")


def test_sound_examples_pass(workspace, nano, examples):
    """As for clips; and the usage of the codebooks, by which a collapsed codec is seen, is measured."""
    for row in examples:
        row["codes"][: nano.codec_frames] = [7] * nano.codec_frames
    _write_examples(workspace, examples)
    summary = check_features(nano, workspace)
    assert summary["warnings"] == [] and summary["examples"] == 16 and summary["failed_share"] == 0
    assert summary["semantic_usage"] > 0.9
    assert summary["codes_usage"][0] == 1 / nano.codec.bins and min(summary["codes_usage"][1:]) > 0.9
    assert _report(workspace, "features")["passed"]


def _replace(name, change):
    def spoil(rows):
        rows[3][name] = change(rows[3][name])

    return spoil


def _append(row):
    return lambda rows: rows.append(rows[row])


def _foreign_clip(rows):
    rows.append(rows[3] | {"clip_id": "ffffffffffffffff-0000"})


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (_replace("semantic", lambda ids: ids[:-1]), "semantic has 100 values"),
        (_replace("semantic", lambda ids: None), "semantic has 100 values"),
        (_replace("semantic", lambda ids: [256, *ids[1:]]), "semantic ids are entries of the codebook"),
        (_replace("codes", lambda ids: [*ids, 0]), "codes has 800 values"),
        (_replace("codes", lambda ids: [-1, *ids[1:]]), "codes ids are entries of the codebook"),
        (_replace("codes", lambda ids: [None, *ids[1:]]), "codes ids are entries of the codebook"),
        (_replace("joint", lambda vector: vector[1:]), "joint has one width in all examples"),
        (_replace("joint", lambda vector: []), "joint is given"),
        (_replace("joint", lambda vector: [float("nan"), *vector[1:]]), "joint is finite"),
        (_replace("visual_motion", lambda v: [float("inf"), *v[1:]]), "visual_motion is finite"),
        (_replace("visual_motion", lambda v: v[1:]), "visual_motion has 40 frames of one width"),
        (_replace("visual_motion", lambda v: []), "visual_motion has 40 frames of one width"),
        (_replace("visual_motion", lambda v: v[40:]), "visual_motion has one width in all examples"),
        (_replace("split", lambda split: "holdout"), "examples are of the clips table, with its video and split"),
        (_foreign_clip, "examples are of the clips table, with its video and split"),
        (_append(3), "a clip has one example"),
        (_append(3), "every clip has one example or one reason why not"),
        (lambda rows: rows.pop(3), "every clip has one example or one reason why not"),
    ],
)
def test_a_planted_fault_of_an_example_stops_the_run(workspace, nano, examples, spoil, rule):
    """Wrong lengths, foreign ids and NaN would surface hours later, as a bad loss or a crash in training."""
    spoil(examples)
    _write_examples(workspace, examples)
    with pytest.raises(DataError) as error:
        check_features(nano, workspace)
    assert rule in str(error.value) and "\n" not in str(error.value)
    assert rule in _failed_rules(workspace, "features") and not _report(workspace, "features")["passed"]


def test_a_clip_that_failed_with_a_reason_is_not_missing(workspace, nano, examples):
    """One undecodable stretch of one video must not stop a run over a whole catalogue."""
    lost = examples.pop(3)
    _write_examples(workspace, examples)
    write_failed(workspace / FAILED, {lost["clip_id"]: "no frames could be decoded"})
    assert check_features(nano, workspace)["failed_share"] == 1 / 16


def test_too_many_failed_clips_stop_the_run(workspace, nano, examples):
    """With a reason for every clip, extraction could lose a catalogue and still pass."""
    _write_examples(workspace, examples[:4])
    write_failed(workspace / FAILED, {row["clip_id"]: "took longer than 60 s" for row in examples[4:]})
    with pytest.raises(DataError, match=r"at most 50% of the clips fail in extraction \(found 0\.75\)"):
        check_features(nano, workspace)


def test_examples_that_are_not_there_are_said_to_be_missing(workspace, nano, examples):
    """An empty folder, or shards of an older version, must name the command to run."""
    with pytest.raises(DataError, match=r"no examples in .* run `v2meow extract` first"):
        check_features(nano, workspace)
    _write_examples(workspace, [{name: row[name] for name in row if name != "joint"} for row in examples])
    with pytest.raises(DataError, match=r"00000\.parquet lacks the columns joint"):
        check_features(nano, workspace)
