"""`v2meow data`: what people are told of a catalogue is what lies in it, now and at an earlier revision."""

import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from v2meow import workspace
from v2meow.cli_data import app
from v2meow.data.manifest import CLIPS, RAW, Clip, DataError, write_clips
from v2meow.workspace.folder import child_environment


def _clip(number: int, **planted) -> Clip:
    values = {
        "clip_id": f"{number:016x}-0000",
        "video_id": f"{number:016x}",
        "path": f"data/raw/{number}.mp4",
        "sha256": f"{number:064x}",
        "start": 0.0,
        "seconds": 4.0,
        "video_seconds": 3600.0,
        "fps": 25.0,
        "width": 64,
        "height": 64,
        "sample_rate": 44100,
        "channels": 2,
        "loudness_db": -20.0,
        "split": "train",
        "caption": "",
        "attributes": {},
        "genre": "jazz",
    }
    return Clip(**(values | planted))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A workspace whose first commit holds 25 videos, tagged `before`; now one is gone, one new, all twice as fast."""
    place = tmp_path_factory.mktemp("data") / "ws"
    workspace.init(place, "nano")
    (place / "dvc.yaml").write_text("stages:\n  ingest:\n    cmd: 'true'\n    outs: [data/clips]\n")
    write_clips(place / CLIPS, [_clip(number, tempo=80.0 + number % 3) for number in range(25)])
    environment = child_environment()
    command = [sys.executable, "-m", "dvc", "commit", "--force", "--quiet"]
    subprocess.run(command, cwd=place, env=environment, check=True, capture_output=True)
    workspace.snapshot(place, "Before")
    subprocess.run(["git", "tag", "before"], cwd=place, env=environment, check=True)
    write_clips(place / CLIPS, [_clip(number, tempo=160.0, genre="r\x1b[2Jck") for number in range(1, 26)])
    return place


def _said(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_revision_is_compared_with_what_lies_there(place):
    told = _said("diff", "before", "--workspace", str(place))
    for part in ("25 → 25 clips", "added: 1\n  data/raw/25.mp4", "removed: 1\n  data/raw/0.mp4", "drift: tempo from 8"):
        assert part in told, told
    assert re.search(r"genre jazz: 25 → 0 hours", told) and "drift: fps" not in told and "\x1b" not in told


@pytest.mark.slow
def test_a_revision_is_equal_to_itself(place):
    assert "no video changed" in _said("diff", "before", "before", "--workspace", str(place))


def test_a_revision_that_is_not_there_is_named(place):
    with pytest.raises(workspace.WorkspaceError, match="nowhere"):
        _said("diff", "nowhere", "--workspace", str(place))


def test_a_catalogue_that_was_not_ingested_yet_cannot_be_compared(place):
    clips = place / CLIPS
    aside = clips.rename(clips.with_name("aside"))
    with pytest.raises(DataError, match="run `v2meow ingest` first"):
        _said("diff", "before", "--workspace", str(place))
    aside.rename(clips)


def test_videos_are_pulled_once(fresh, tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/one.mp4").write_bytes(b"one")
    first, second = (_said("pull", str(tmp_path / "videos"), "--workspace", str(fresh)) for _ in range(2))
    assert first.startswith("1 added") and second.startswith("0 added") and "1 unchanged" in second
    assert len(list((fresh / RAW).rglob("*.mp4"))) == 1


def test_without_a_source_people_are_told_where_to_name_one(fresh):
    with pytest.raises(DataError, match=r"set data\.source in the recipe"):
        _said("pull", "--workspace", str(fresh))
