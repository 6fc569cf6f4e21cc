"""`v2meow data …` on a real workspace: what it says is what git, DVC and the registry hold."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from v2meow import workspace
from v2meow.cli_data import app
from v2meow.data import quarantine
from v2meow.data.manifest import CLIPS, RAW, Clip, read_clips, write_clips
from v2meow.data.quarantine import Held
from v2meow.files import sha256, write_json


def call(place, *arguments):
    """What a command printed."""
    result = CliRunner().invoke(app, [arguments[0], "--workspace", str(place), *arguments[1:]])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.output


def clip(file):
    digest = sha256(file)
    return Clip(
        clip_id=f"{digest[:16]}-0000",
        video_id=digest[:16],
        path=f"{RAW}/{file.name}",
        sha256=digest,
        start=0.0,
        seconds=4.0,
        video_seconds=3600.0,
        fps=25.0,
        width=64,
        height=64,
        sample_rate=44100,
        channels=2,
        loudness_db=-20.0,
        split="train",
        caption="",
        attributes={},
        genre="jazz",
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A workspace of two commits: a.mp4 and b.mp4, then b.mp4 replaced, and c.mp4 beside them; DVC has both."""
    folder = tmp_path_factory.mktemp("data") / "ws"
    workspace.init(folder, "nano")
    write_json(folder / "dvc.yaml", {"stages": {"ingest": {"cmd": "true", "outs": [CLIPS.parent.as_posix()]}}})
    for contents in ({"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}):
        for name, content in contents.items():
            (folder / RAW / f"{name}.mp4").write_text(content)
        write_clips(folder / CLIPS, [clip(folder / RAW / f"{name}.mp4") for name in contents])
        subprocess.run([sys.executable, "-m", "dvc", "commit", "--force", "--quiet"], cwd=folder, check=True)
        workspace.snapshot(folder, "clips")
    return folder


@pytest.mark.slow
def test_versions_are_compared_by_what_dvc_kept_of_them(place):
    """A difference that is read from the files as they are now would always be empty."""
    found = json.loads(call(place, "diff", "HEAD~1", "HEAD", "--json"))
    assert (found["added"], found["replaced"], found["removed"]) == ([f"{RAW}/c.mp4"], [f"{RAW}/b.mp4"], [])
    assert found["before"]["hours_by_genre"] == {"jazz": 2.0} and found["after"]["hours"] == 3.0
    assert "added: 0" in call(place, "diff")
    shown = call(place, "diff", "HEAD~1")
    assert f"replaced: 1\n  {RAW}/b.mp4" in shown and "jazz" in shown


@pytest.mark.slow
def test_a_revision_that_git_does_not_know_is_named(place):
    result = CliRunner().invoke(app, ["diff", "--workspace", str(place), "yesterday"])
    assert isinstance(result.exception, workspace.WorkspaceError)
    assert "git knows no revision 'yesterday'" in str(result.exception)


@pytest.mark.slow
def test_figures_are_shown_and_written(place, tmp_path):
    assert "jazz" in call(place, "stats", "--html", str(tmp_path / "stats.html"))
    assert "3 videos, 3 clips, 3.0 hours" in (tmp_path / "stats.html").read_text()
    assert json.loads(call(place, "stats", "--json"))["videos"] == 3


@pytest.mark.slow
def test_what_is_held_back_is_listed(place):
    assert call(place, "quarantine") == "no clip is in quarantine\n"
    quarantine.write(place, [Held(clip_id="a-0000", rule="the clip is not silent", reason="silent_share is 1")])
    assert call(place, "quarantine") == ("1 clips are against: the clip is not silent\n  a-0000: silent_share is 1\n")


@pytest.mark.slow
def test_a_forgotten_video_does_not_come_back_with_the_next_pull(place, tmp_path):
    """Whoever asks for it asks once."""
    (tmp_path / "c.mp4").write_text("4")
    said = call(place, "forget", f"{RAW}/c.mp4", "--yes")
    assert f"removed {RAW}/c.mp4" in said and "left to do:" in said
    assert "forgotten: 1" in call(place, "pull", str(tmp_path))
    assert len(read_clips(place)) == 2 and not list((place / RAW).rglob("c.mp4"))
