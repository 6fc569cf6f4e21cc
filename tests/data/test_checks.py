"""Every demand on the catalogue and its examples fails on a planted fault, and only then."""

import dataclasses
import json
import re
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from v2meow.data import quarantine
from v2meow.data.checks import check_features, validate
from v2meow.data.drift import profile
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
from v2meow.data.quarantine import Held, usable_clips
from v2meow.files import write_json


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
        "quarantined": 0,
        "quarantined_share": 0.0,
    }
    assert quarantine.read(workspace) == [] and (workspace / quarantine.QUARANTINE).is_file()
    assert summary["checks"] == len(report["checks"]) and all(check["success"] for check in report["checks"])


FAULTS = [
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
    ({"lufs": 90.0}, "loudness in LUFS is plausible"),
    ({"silent_share": 1.5}, "silent_share is a share"),
    ({"clipped_share": -0.1}, "clipped_share is a share"),
    ({"music_score": 2.0}, "music_score is a share"),
    ({"tempo": 4000.0}, "tempo is plausible"),
    ({"caption": None}, "caption is given"),
    ({"attributes": "{'tempo': 90}"}, "attributes are JSON"),
]


def test_every_fault_of_a_clip_is_found_and_stops_the_run(tmp_path, nano, make_clip):
    """A check that cannot fail is worse than none: it is trusted. Each fault is planted in a video of its own."""
    videos = [4 * video for video in range(len(FAULTS))]  # all are held out
    write_clips(tmp_path / CLIPS, [make_clip(video, index) for video in videos for index in range(2)])
    write_rejected(tmp_path / REJECTED, [])
    for number, (planted, _) in enumerate(FAULTS):
        _replant(tmp_path, 2 * number + 1, **planted)
    with pytest.raises(DataError) as error:
        validate(nano, tmp_path)
    assert all(rule in str(error.value) for _, rule in FAULTS) and "\n" not in str(error.value)
    found = {check["rule"]: check["examples"] for check in _report(tmp_path, "validate")["checks"]}
    for video, (planted, rule) in zip(videos, FAULTS, strict=True):
        assert planted.get("clip_id", f"{video:016x}-0001") in found[rule], rule


def test_a_sum_over_parts_is_that_of_the_whole(workspace, nano, monkeypatch):
    """A rule that only looks at the last part, or an id that is listed in two parts, would pass."""
    _replant(workspace, 1, silent_share=0.95)
    _replant(workspace, 14, silent_share=0.95, fps=0.0)
    _replant(workspace, 15, clip_id=f"{0:016x}-0000")
    reports = []
    for rows in (65_536, 3):
        monkeypatch.setattr("v2meow.data.checks.catalogue._PART", rows)
        with pytest.raises(DataError, match="clip ids are unique"):
            validate(nano, workspace)
        pages = workspace / "reports/data-docs/validate"
        text = {page.name: page.read_text() for page in pages.iterdir()}
        reports.append((_report(workspace, "validate"), quarantine.read(workspace), text))
    assert reports[0] == reports[1]


@pytest.mark.parametrize(
    ("planted", "rule"),
    [
        ({"silent_share": 0.95}, "the clip is not silent"),
        ({"clipped_share": 0.2}, "the clip is not clipped"),
        ({"lufs": -65.0}, "the clip can be heard"),
    ],
)
def test_a_clip_that_spoils_training_is_left_out_with_its_reason(workspace, nano, planted, rule):
    """Left out silently nobody would learn why a catalogue shrank; left in, silence is learnt."""
    _replant(workspace, 3, **planted)
    summary = validate(nano, workspace)
    (name, value), clip_id = next(iter(planted.items())), f"{1:016x}-0001"
    assert quarantine.read(workspace) == [Held(clip_id=clip_id, rule=rule, reason=f"{name} is {value:g}")]
    assert summary["quarantined"] == 1 and summary["clips"] == 15 and summary["warnings"][0].startswith(rule)
    assert clip_id not in [clip.clip_id for clip in usable_clips(workspace)] and len(usable_clips(workspace)) == 15


def test_a_clip_that_is_no_music_is_left_out_where_the_recipe_asks(workspace, nano):
    """The score is a hint (drums alone are like noise), so that it counts for nothing unless somebody wants it."""
    _replant(workspace, 3, music_score=0.5)
    assert validate(nano, workspace)["quarantined"] == 0
    strict = dataclasses.replace(nano, checks=dataclasses.replace(nano.checks, min_music_score=0.4))
    with pytest.raises(DataError, match="at most 20% of the clips are quarantined"):
        validate(strict, workspace)
    assert len(quarantine.read(workspace)) == 15


def test_near_copies_in_both_splits_stop_the_run(workspace, nano):
    """The held-out loss of music that was trained on says nothing."""
    for row in (0, 1, 2, 3):  # a held-out and a trained video
        _replant(workspace, row, group="ab")
    with pytest.raises(DataError, match="no group of near-copies is in both splits"):
        validate(nano, workspace)


def test_every_fault_of_a_file_is_found(workspace, nano):
    """A file that is neither used nor rejected is lost; one that is both was counted twice."""
    _replant(workspace, 2, path="elsewhere/1.mp4", sha256="f" * 64, licence="all rights reserved")
    _replant(workspace, 3, path="elsewhere/1.mp4", sha256="f" * 64, licence="all rights reserved")
    rejected = [RejectedFile("data/raw/000.mp4", "not a video"), RejectedFile("data/raw/x.mp4", "")]
    write_rejected(workspace / REJECTED, rejected)
    licensed = dataclasses.replace(nano, data=dataclasses.replace(nano.data, licences=("All Rights Reserved",)))
    with pytest.raises(DataError):
        validate(licensed, workspace)
    found = {check["rule"]: check["examples"] for check in _report(workspace, "validate")["checks"]}
    assert found["a file is listed once"] == ["data/raw/000.mp4"]
    assert found["files lie under data/raw"] == found["a video is named by its content"] == ["elsewhere/1.mp4"]
    assert found["rejected files have a reason, used ones have none"] == ["data/raw/x.mp4"]
    assert "elsewhere/1.mp4" not in found["used videos are licensed as All Rights Reserved"]
    assert len(found["used videos are licensed as All Rights Reserved"]) == 5  # of seven


def test_pages_stand_alone_and_what_others_wrote_is_text(workspace, nano):
    """Words of a sidecar would run as a script in the browser of whoever looks at what is wrong with them."""
    _replant(workspace, 0, split="<script>alert(1)</script><img src=https://a.example/x>")
    with pytest.raises(DataError):
        validate(nano, workspace)
    text = (workspace / "reports/data-docs/validate/clips.html").read_text()
    assert "splits are train or holdout" in text and "&lt;script&gt;alert(1)" in text
    assert "<script" not in text and "<img" not in text
    assert not re.findall(r"(?:src|href)=\"(?!#)[^\"]*", text)


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
        "action": "block",
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
    assert summary["examples"] == 16 and summary["failed_share"] == 0 and summary["shifted"] == []
    assert summary["semantic_usage"] > 0.9 and summary["semantic_entropy"] > 0.9
    assert summary["codes_usage"][0] == 1 / nano.codec.bins and min(summary["codes_usage"][1:]) > 0.9
    assert summary["codes_entropy"][0] == 0 and min(summary["codes_entropy"][1:]) > 0.9
    assert summary["dead_codes"]["codes"] >= nano.codec.bins - 1
    assert [warning.split(" (")[0] for warning in summary["warnings"]] == [
        "codes has 30% of the entropy",
        "codes uses 10% of each codebook",
    ]
    assert _report(workspace, "features")["passed"]
    assert (workspace / "reports/data-docs/features/examples.html").is_file()


def test_a_quarantined_clip_needs_no_example(workspace, nano, examples):
    """`check-features` would stop every catalogue of which `validate` left a clip out."""
    quarantine.write(workspace, [Held(clip_id=examples[3]["clip_id"], rule="the clip is not silent", reason="it is")])
    _write_examples(workspace, examples[:3] + examples[4:])
    check_features(nano, workspace)
    _write_examples(workspace, examples)
    with pytest.raises(DataError, match="examples are of the clips table"):
        check_features(nano, workspace)


def test_a_shift_since_the_last_version_is_told_and_stops_nothing(tmp_path, nano, make_clip, examples):
    """A catalogue that slowly became another one is noticed by nobody who only looks at the last run."""
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    report = {"figures": {"profiles": {"loudness_db": asdict(profile(np.full(40, -20.0)))}}}
    write_json(tmp_path / "reports" / "features.json", report)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["add", "reports"], [*identity, "commit", "--quiet", "-m", "before"]):
        subprocess.run(["git", "-C", tmp_path, *command], check=True)
    louder = [make_clip(video, loudness_db=-3.0) for video in range(24)]
    write_clips(tmp_path / CLIPS, louder)
    ids = ["clip_id", "video_id", "split"]
    rows = [examples[0] | {name: getattr(clip, name) for name in ids} for clip in louder]
    _write_examples(tmp_path, rows)
    assert check_features(nano, tmp_path)["shifted"][0].startswith("loudness_db moved from -20 to -3")
    assert json.loads((tmp_path / "reports/drift.json").read_text())["loudness_db"]["after"] == -3.0


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


@pytest.mark.long
def test_a_million_clips_are_checked_in_two_gigabytes(tmp_path):
    """Read whole, the table alone takes more memory than a small machine has."""
    rows, per_video = 1_000_000, 8
    (tmp_path / CLIPS).parent.mkdir(parents=True)
    with pq.ParquetWriter(tmp_path / CLIPS, SCHEMA) as writer:
        for first in range(0, rows, 50_000):
            writer.write_table(pa.table(_many(first, 50_000, per_video), SCHEMA))
    write_rejected(tmp_path / REJECTED, [])
    program = """
import resource, sys
from pathlib import Path
from v2meow.config import load_recipe, recipe_path
from v2meow.data.checks import validate
summary = validate(load_recipe(recipe_path("nano")), Path(sys.argv[1]))
print(summary["clips"], summary["quarantined"], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    clips, held, mebibytes = map(int, done.stdout.split())
    assert (clips, held) == (rows - rows // 1000, rows // 1000) and mebibytes < 2048


def _many(first, count, per_video):
    """Columns of sound clips, of which each thousandth is silent."""
    numbers = range(first, first + count)
    videos = [f"{number // per_video:016x}" for number in numbers]
    columns = {name: [""] * count if field.type == pa.string() else [0] * count for name, field in _fields()}
    return columns | {
        "clip_id": [f"{video}-{number % per_video:04d}" for video, number in zip(videos, numbers, strict=True)],
        "video_id": videos,
        "path": [f"data/raw/{video}.mp4" for video in videos],
        "sha256": [video * 4 for video in videos],
        "seconds": [4.0] * count,
        "video_seconds": [60.0] * count,
        "fps": [25.0] * count,
        "width": [64] * count,
        "height": [64] * count,
        "sample_rate": [44100] * count,
        "channels": [2] * count,
        "split": ["train" if number // per_video % 4 else "holdout" for number in numbers],
        "attributes": ["{}"] * count,
        "silent_share": [0.95 if number % 1000 == 0 else 0.0 for number in numbers],
        "variable_fps": [False] * count,
    }


def _fields():
    return ((field.name, field) for field in SCHEMA)
