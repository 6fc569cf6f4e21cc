"""Worktrees of runs, and bringing what they made home: nobody's work is lost, whoever was quicker."""

import subprocess
from pathlib import Path

import pytest
import yaml

from v2meow import workspace

PIPELINE = {
    "stages": {"copy": {"cmd": "cat data/raw/* > out.txt", "deps": ["data/raw"], "outs": ["out.txt"]}},
}


def git(place: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=place, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def place(fresh: Path) -> Path:
    """A workspace with one step and one file, that shares a bare remote with others."""
    (fresh / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE))
    (fresh / "data/raw").mkdir(parents=True, exist_ok=True)
    (fresh / "data/raw/one.mp4").write_text("one")
    remote = fresh.parent / "remote.git"
    git(fresh, "init", "--quiet", "--bare", "--initial-branch=main", str(remote))
    git(fresh, "remote", "add", "origin", str(remote))
    return fresh


def made(place: Path, branch: str) -> None:
    """Run the step on a branch of its own, and deliver it."""
    with workspace.worktree(place, workspace.refresh(place), branch) as tree:
        workspace.run_stage(tree, "copy")
        workspace.snapshot(tree, f"Run {branch}")
    workspace.deliver(place, branch)


def test_a_run_sees_the_videos_of_its_beginning_and_brings_home_what_it_made(place):
    """Videos that arrive while a run is at work must not slip into half of it."""
    with workspace.worktree(place, workspace.refresh(place), "runs/1") as tree:
        (place / "data/raw/two.mp4").write_text("two")
        workspace.run_stage(tree, "copy")
        workspace.snapshot(tree, "Run")
        assert (tree / "out.txt").read_text() == "one"
        assert not (place / "out.txt").exists()
    assert workspace.undelivered(place) == ["runs/1"]
    workspace.deliver(place, "runs/1")
    assert (place / "out.txt").read_text() == "one"
    assert workspace.stale(place) == ["copy"], "the second video is still to be learnt from"


def test_a_worktree_is_used_again_with_what_was_made_restored(place):
    made(place, "runs/1")
    with workspace.worktree(place, "HEAD") as first, workspace.worktree(place, "HEAD") as second:
        assert first != second
        for tree in (first, second):
            assert workspace.stale(tree) == [] and (tree / "out.txt").read_text() == "one"
    with workspace.worktree(place, "HEAD") as again:
        assert again == first


def test_a_push_that_somebody_was_quicker_with_loses_nothing(place, tmp_path):
    """A refused push once threw away a night of training, or the colleague's recipe."""
    made(place, "runs/1")
    other = tmp_path / "other"
    subprocess.run(["git", "clone", "--quiet", str(place.parent / "remote.git"), str(other)], check=True)
    (place / "data/raw/one.mp4").write_text("changed")
    with workspace.worktree(place, workspace.refresh(place), "runs/2") as tree:
        workspace.run_stage(tree, "copy")
        workspace.snapshot(tree, "Run 2")
    (other / "dvc.lock").write_text((other / "dvc.lock").read_text() + "# made there, too\n")
    (other / "recipe.yaml").write_text((other / "recipe.yaml").read_text() + "# better\n")
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    git(other, *identity, "commit", "--quiet", "--all", "--message", "by a colleague")
    git(other, "push", "--quiet")
    workspace.deliver(place, "runs/2")
    assert "# better" in (place / "recipe.yaml").read_text()
    assert "made there" not in (place / "dvc.lock").read_text(), "a lock file mixed of two describes nothing"
    assert (place / "out.txt").read_text() == "changed" and workspace.stale(place) == []
    git(other, "pull", "--quiet")
    assert git(other, "rev-parse", "HEAD") == git(place, "rev-parse", "HEAD")


def test_a_remote_that_is_away_is_told_and_the_branch_waits(place):
    """What was made must be there when the network is back."""
    made(place, "runs/1")
    (place / "data/raw/one.mp4").write_text("changed")
    with workspace.worktree(place, workspace.refresh(place), "runs/2") as tree:
        workspace.run_stage(tree, "copy")
        workspace.snapshot(tree, "Run 2")
    remote, away = place.parent / "remote.git", place.parent / "away.git"
    remote.rename(away)
    with pytest.raises(workspace.WorkspaceError, match=r"git fetch"):
        workspace.deliver(place, "runs/2")
    assert workspace.undelivered(place) == ["runs/2"]
    away.rename(remote)
    workspace.deliver(place, "runs/2")
    assert git(remote, "rev-parse", "main") == git(place, "rev-parse", "HEAD")
