"""The demo's own bookkeeping: whose catalogue it works on, what it makes again, and what it tells."""

import time

import pytest

from v2meow import demo, live, workspace
from v2meow.files import read_json


def test_demo_goes_on_with_the_catalogue_that_it_began_with(fresh, tmp_path):
    """A synthetic catalogue mixed with a person's videos trains a model of neither."""
    demo._claim(fresh, None)
    demo._claim(fresh, None)
    with pytest.raises(workspace.WorkspaceError, match=r"another catalogue \(synthetic\)"):
        demo._claim(fresh, tmp_path)


def test_demo_keeps_its_hands_off_a_workspace_with_videos_of_its_own(fresh):
    (fresh / "data/raw/a.mp4").write_text("mine")
    with pytest.raises(workspace.WorkspaceError, match="v2meow run"):
        demo._claim(fresh, None)


def test_a_part_is_made_again_only_when_its_inputs_change_or_its_files_are_gone(fresh):
    """The second demo must be quick, and must not show a score by the model of the first."""
    shown = []

    def make(made_from):
        shown.clear()
        with workspace.owned(fresh):
            command = ["init", "sub", "--recipe", "nano"]
            demo._part("part", command, made_from, [demo.Path("sub")], fresh, lambda _, state, __: shown.append(state))
        return shown[-1]

    assert make({"bundle": "1"}) == "done"
    assert make({"bundle": "1"}) == "unchanged"
    assert make({"bundle": "2"}) == "done"
    (fresh / "sub").rename(fresh / "elsewhere")
    assert make({"bundle": "2"}) == "done"


def test_the_synthetic_catalogue_is_made_once(fresh):
    states = []

    def show(name, state, progress):
        states.append(state)

    with workspace.owned(fresh):
        for _ in range(2):
            demo._claim(fresh, None)
            demo._make_catalogue(2, fresh, show)
    assert states[0] == "running"
    assert states[-2:] == ["done", "unchanged"]
    assert len(list((fresh / demo.RAW).glob("*.mp4"))) == len(list((fresh / demo.RAW).glob("*.json"))) == 2


def test_a_failed_part_is_not_remembered_as_made(fresh):
    with workspace.owned(fresh), pytest.raises(workspace.StageError):
        demo._part("part", ["init", ".", "--recipe", "huge"], {}, [], fresh, lambda *change: None)
    assert not (fresh / "demo" / "part.json").exists()


def test_a_demo_killed_in_its_first_seconds_can_be_repeated(fresh):
    """The claim lies in the workspace before the first video does."""
    demo._claim(fresh, None)
    (fresh / "data/raw/0000.mp4").write_text("half of a catalogue")
    demo._claim(fresh, None)
    assert read_json(fresh / "demo" / "source.json") == {"source": "synthetic"}


@pytest.mark.parametrize("missing", ["nowhere", "empty"])
def test_a_folder_without_videos_is_refused_before_anything_is_made(tmp_path, missing):
    (tmp_path / "empty").mkdir()
    with pytest.raises(workspace.WorkspaceError, match=missing):
        demo.demo(tmp_path / missing, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_step_of_the_pipeline_has_its_share_of_the_estimate(fresh):
    """A step without one would count as nothing, and the estimate would end too early."""
    assert set(demo._SECONDS) == {"catalogue", *workspace.stages(fresh), "report", "score"}


def test_remaining_time_follows_the_speed_of_what_ran(monkeypatch):
    """On a machine half as fast the estimate must double."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    table = live.StepTable(["old", "a", "b", "c"], {"old": 50, "a": 10, "b": 20, "c": 30})
    assert table.remaining() is None
    table("old", "unchanged", {})
    assert table.remaining() is None
    table("a", "running", {})
    now = 20.0
    table("a", "done", {})
    assert table.remaining() == pytest.approx(100)
    table("b", "running", {"label": "x", "done": 0, "total": 4, "note": ""})
    now = 30.0
    table("b", "running", {"label": "x", "done": 1, "total": 4, "note": ""})
    assert table.remaining() == pytest.approx(90)


def test_without_a_terminal_each_change_is_one_line(capsys):
    """A log of a live display is thousands of lines of control characters."""
    with live.shown(["ingest", "gate"]) as show:
        show("ingest", "running", {})
        for done in range(50):
            show("ingest", "running", {"label": "cut", "done": done, "total": 50, "note": ""})
        show("ingest", "done", {})
        show("gate", "unchanged", {})
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["ingest: running 0:00", "ingest: done 0:00", "gate: unchanged"]
