"""Ingest: good videos become clips, every other file a row that says why, and nothing stops the run."""

import dataclasses
import json
import math
import os
import shutil

import numpy as np
import pytest

from v2meow.data.clips import run
from v2meow.data.manifest import CLIPS, RAW, REJECTED, DataError, read_clips, read_rejected
from v2meow.files import sha256
from v2meow.media import write_video

RATE = 16_000


def _tone(seconds, amplitude=0.1):
    return (amplitude * np.sin(2 * math.pi * 440 * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def _write(path, shade, waveform, seconds):
    """A grey video of 64×64 pixels at 5 fps; `shade` makes its content its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.full((64, 64, 3), shade, dtype=np.uint8)
    write_video(path, iter([picture] * round(5 * seconds)), 5, waveform, RATE)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Videos that differ in what ingest looks at; tests copy them into workspaces of their own."""
    folder = tmp_path_factory.mktemp("originals")
    _write(folder / "a.mp4", 40, _tone(6), 6)
    _write(folder / "b.mp4", 80, _tone(8.4, 0.2), 8.4)
    _write(folder / "rising.mp4", 120, _tone(6) * np.linspace(0, 5, 6 * RATE, dtype=np.float32), 6)
    _write(folder / "silent.mp4", 160, np.zeros(6 * RATE, np.float32), 6)
    _write(folder / "short.mp4", 200, _tone(3), 3)
    return folder


@pytest.fixture
def workspace(tmp_path, originals):
    """A workspace with two usable videos."""
    (tmp_path / RAW).mkdir(parents=True)
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(originals / name, tmp_path / RAW / name)
    return tmp_path


def _reasons(workspace):
    return {row.path.removeprefix("data/raw/"): row.reason for row in read_rejected(workspace / REJECTED)}


def test_each_clip_says_where_it_lies_and_what_it_holds(workspace, nano):
    """Every later step finds its media and its split through these rows alone."""
    (workspace / RAW / "b.json").write_text(json.dumps({"caption": "a slow waltz", "attributes": {"tempo": 90}}))
    summary = run(nano, workspace)
    clips = read_clips(workspace)
    what = {"videos": 2, "clips": 5, "rejected": 0, "groups": 2, "groups_merged": 0}
    assert summary == what | {"seconds": pytest.approx(14.4, abs=0.05)}
    assert [(clip.path, clip.start) for clip in clips] == [
        ("data/raw/a.mp4", 0.0),
        ("data/raw/a.mp4", 2.0),
        ("data/raw/b.mp4", 0.0),
        ("data/raw/b.mp4", 2.0),
        ("data/raw/b.mp4", 4.0),
    ]
    for clip in clips:
        assert clip.sha256 == sha256(workspace / clip.path) and clip.video_id == clip.sha256[:16]
        assert (clip.seconds, clip.fps, clip.width, clip.height, clip.channels) == (4.0, 5.0, 64, 64, clip.channels)
    assert [clip.clip_id for clip in clips[2:]] == [f"{clips[2].video_id}-000{index}" for index in range(3)]
    assert [(clip.caption, clip.attributes) for clip in clips[1:3]] == [("", {}), ("a slow waltz", {"tempo": 90})]
    assert {clip.split for clip in clips} == {"train", "holdout"}
    assert read_rejected(workspace / REJECTED) == []


def test_loudness_is_the_rms_of_the_clip_itself(workspace, originals, nano):
    """An error of 3 dB (peak for RMS) or of the place would let silent clips into training."""
    shutil.copy(originals / "rising.mp4", workspace / RAW)
    run(nano, workspace)
    clips = read_clips(workspace)
    assert clips[0].loudness_db == pytest.approx(20 * math.log10(0.1 / math.sqrt(2)), abs=0.3)
    rising = [clip for clip in clips if clip.path.endswith("rising.mp4")]
    wave = _tone(6) * np.linspace(0, 5, 6 * RATE)
    for clip in rising:
        part = wave[round(clip.start * RATE) : round((clip.start + 4) * RATE)]
        assert clip.loudness_db == pytest.approx(10 * math.log10(np.mean(part**2)), abs=0.3)


def test_loudness_read_in_blocks_is_that_read_clip_by_clip(workspace, originals, nano):
    """Videos of hours are read in blocks: a slip at their edge would shift every later clip."""
    shutil.copy(originals / "rising.mp4", workspace / RAW)
    dense = dataclasses.replace(nano, data=dataclasses.replace(nano.data, hop_seconds=0.05))
    run(dense, workspace)
    rising = [clip for clip in read_clips(workspace) if clip.path.endswith("rising.mp4")]
    wave = _tone(6) * np.linspace(0, 5, 6 * RATE)
    assert len(rising) == 41
    for clip in rising:
        first = round(clip.start * RATE)
        assert clip.loudness_db == pytest.approx(10 * math.log10(np.mean(wave[first : first + 4 * RATE] ** 2)), abs=0.3)


def test_ingest_again_gives_equal_bytes(workspace, originals, nano):
    """An order that followed the threads would make DVC repeat everything downstream."""
    for name in ("silent.mp4", "short.mp4", "rising.mp4"):
        shutil.copy(originals / name, workspace / RAW)
    run(nano, workspace)
    first = [(workspace / name).read_bytes() for name in (CLIPS, REJECTED)]
    run(nano, workspace)
    assert [(workspace / name).read_bytes() for name in (CLIPS, REJECTED)] == first


def test_what_is_rejected_does_not_depend_on_where_the_workspace_lies(workspace, originals, nano, tmp_path_factory):
    """Absolute paths in the outputs would give each checkout of one catalogue another data version."""
    (workspace / RAW / "notes.mp4").write_text("not a video")
    (workspace / RAW / "gone.mp4").symlink_to("nowhere.mp4")
    run(nano, workspace)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(workspace / RAW, elsewhere / RAW, symlinks=True)
    run(nano, elsewhere)
    for name in (CLIPS, REJECTED):
        assert (elsewhere / name).read_bytes() == (workspace / name).read_bytes()


def test_each_bad_file_has_a_row_with_its_reason(workspace, originals, nano):
    """A file that vanishes without a word cannot be repaired by whoever sent it."""
    raw = workspace / RAW
    for name in ("silent.mp4", "short.mp4"):
        shutil.copy(originals / name, raw)
    (raw / "sub folder").mkdir()
    shutil.copy(originals / "a.mp4", raw / "sub folder" / "twin.mp4")
    (raw / "notes.mp4").write_text("not a video")
    (raw / "[").mkdir()
    (raw / "[/bold] 猫.mp4").write_text("a path that is markup to a terminal")
    (raw / "gone.mp4").symlink_to("nowhere.mp4")
    shutil.copy(originals / "rising.mp4", os.fsdecode(os.fsencode(raw) + b"/\xff.mp4"))
    summary = run(nano, workspace)
    reasons = _reasons(workspace)
    assert summary["rejected"] == len(reasons) == 7 and summary["videos"] == 2
    assert reasons["silent.mp4"] == "soundtrack is silent when mixed to mono (-91.0 dBFS)"
    assert reasons["short.mp4"] == "video of 3.00 s is shorter than a clip of 4 s"
    assert reasons["sub folder/twin.mp4"] == "same content as data/raw/a.mp4"
    assert reasons["notes.mp4"].startswith("not a video")
    assert reasons["[/bold] 猫.mp4"].startswith("not a video")
    assert reasons["gone.mp4"] == "cannot be read: No such file or directory"
    assert reasons[r"\udcff.mp4"] == "the file name is not UTF-8"


@pytest.mark.parametrize(
    ("sidecar", "reason"),
    [
        (b'{"caption": ', "is not valid JSON"),
        (b"\xff\xfe", "is not valid JSON"),
        (b'{"attributes": {"tempo": NaN}}', "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (rb'{"caption": "\ud800"}', "is not Unicode text"),
        (b'["a caption"]', "must be a mapping"),
        (b'{"captoin": "a waltz"}', "must be a mapping with no keys but caption, title"),
        (b'{"caption": 3}', "caption must be text"),
        (b'{"attributes": ["tempo"]}', "attributes must be a mapping"),
    ],
)
def test_a_malformed_sidecar_rejects_its_video_only(workspace, originals, nano, sidecar, reason):
    """A misspelt caption that is dropped in silence trains a model without text."""
    shutil.copy(originals / "rising.mp4", workspace / RAW)
    (workspace / RAW / "rising.json").write_bytes(sidecar)
    assert run(nano, workspace)["videos"] == 2
    assert _reasons(workspace)["rising.mp4"].startswith("sidecar rising.json")
    assert reason in _reasons(workspace)["rising.mp4"]


def test_sidecars_and_hidden_files_are_not_videos(workspace, nano):
    """A .DS_Store or .gitignore counted as a rejected file would fail a sound catalogue."""
    for name in (".gitignore", ".DS_Store", "._a.mp4", "a.json", "orphan.json", ".cache/a.mp4"):
        (workspace / RAW / name).parent.mkdir(exist_ok=True)
        (workspace / RAW / name).write_text("{}")
    assert run(nano, workspace)["rejected"] == 0


def test_no_usable_video_is_an_error_that_leaves_the_reasons(tmp_path, nano):
    """Without rejected.csv nobody could tell why the whole catalogue was refused."""
    (tmp_path / RAW).mkdir(parents=True)
    with pytest.raises(DataError, match=r"no files in .*data/raw: put videos there first"):
        run(nano, tmp_path)
    (tmp_path / RAW / "notes.mp4").write_text("not a video")
    with pytest.raises(DataError, match=r"no usable video in .*data/raw: 1 files rejected, see data/rejected\.csv"):
        run(nano, tmp_path)
    assert list(_reasons(tmp_path)) == ["notes.mp4"] and not (tmp_path / CLIPS).exists()


def test_a_hostile_folder_costs_its_bad_files_only(tmp_path, nano, media_folder):
    """One crafted or broken file must not end, hang or silently thin out the ingest of a catalogue."""
    shutil.copytree(media_folder / "hostile", tmp_path / RAW)
    (tmp_path / RAW / "MANIFEST.csv").unlink(missing_ok=True)
    names = {path.name for path in (tmp_path / RAW).iterdir()}
    run(nano, tmp_path)
    reasons, used = _reasons(tmp_path), {clip.path.removeprefix("data/raw/") for clip in read_clips(tmp_path)}
    assert used | reasons.keys() == names and not used & reasons.keys()
    good = {"surround_5_1.mp4", "mono_8k.mp4", "really_webm.mp4", "vfr.mp4", "three_audio_tracks.mkv"}
    assert good <= used
    assert all(reason and "\n" not in reason and str(tmp_path) not in reason for reason in reasons.values())
    for name, reason in {
        "antiphase_stereo.mov": "soundtrack is silent when mixed to mono",
        "long_silent_audio_2h.mp4": "soundtrack is silent when mixed to mono",
        "audio_longer_than_video.mp4": "shorter than a clip of 4 s",
        "one_frame.mp4": "shorter than a clip of 4 s",
        "tiny_16x4.mkv": "shorter than a clip of 4 s",
        "bomb_16000x16000.mp4": "larger than 40000000 pixels",
        "playlist_ssrf.mp4": "not a video",
    }.items():
        assert reason in reasons[name], (name, reasons[name])
