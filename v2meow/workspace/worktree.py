"""Worktrees: a run has the workspace to itself, on a branch of its own, with the data of that moment.

They share git's objects and DVC's cache with their workspace, so that a step which one of them ran is restored in the
others. Knows nothing of what runs in them, nor of what becomes of their branch.
"""

import configparser
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from v2meow.files import atomic_file
from v2meow.workspace.errors import WorkspaceError
from v2meow.workspace.folder import RAW, child_environment
from v2meow.workspace.owner import owned

PLACES = Path(".dvc/tmp/runs")  # git and DVC ignore it; on the workspace's own disk, so that links work
_MOST = 64
_LINKS = "reflink,hardlink,copy"  # outputs in a worktree cost no second copy


@contextmanager
def worktree(workspace: Path, start: str, branch: str | None = None, *, videos: Path | None = None) -> Iterator[Path]:
    """A workspace beside `workspace` that this process alone uses, at the revision `start`, its outputs restored.

    Its raw videos are those of now, whatever arrives meanwhile: the workspace's own, or those of `videos`. With
    `branch` what is committed in it goes there: a new branch, or the one that an earlier attempt left. What a killed
    run left in it, such as checkpoints, is there for the next. WorkspaceError when git or DVC fail.
    """
    workspace = workspace.resolve()
    with _free_place(workspace) as place:
        _begin(workspace, place, start, branch)
        with owned(place):
            _mirror((videos or workspace) / RAW, place / RAW)
            restore(place)
            yield place


def restore(place: Path) -> None:
    """Make the outputs of a workspace those that its dvc.lock pins; what the cache lacks is left out."""
    if (place / "dvc.lock").is_file():
        dvc(place, "checkout", "--quiet", "--force", "--allow-missing")


def dvc(place: Path, *arguments: str) -> str:
    """What a DVC command says. WorkspaceError with DVC's reason."""
    return call(place, sys.executable, "-m", "dvc", *arguments)


def git(place: Path, *arguments: str) -> str:
    """What a git command says. WorkspaceError with git's reason."""
    return call(place, "git", *arguments)


def call(place: Path, *command: str) -> str:
    """Run a command in a workspace. WorkspaceError with its own reason when it fails."""
    environment = child_environment() | {"GIT_TERMINAL_PROMPT": "0", "GIT_MERGE_AUTOEDIT": "no"}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["no reason given"]
        told = [line for line in said if line.startswith(("fatal:", "error:", "ERROR:", "!", " ! "))] or said
        name = " ".join(word for word in command if word not in (sys.executable, "-m"))
        raise WorkspaceError(f"{place}: `{name}` failed: {told[0].strip()}")
    return done.stdout.strip()


@contextmanager
def _free_place(workspace: Path) -> Iterator[Path]:
    """The first place that no living process uses. The same few are used again and again: DVC knows their files."""
    (workspace / PLACES).mkdir(parents=True, exist_ok=True)
    for number in range(_MOST):
        with (workspace / PLACES / f"{number}.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield workspace / PLACES / str(number)
            return
    raise WorkspaceError(f"{workspace}: {_MOST} runs are at work in it already")


def _begin(workspace: Path, place: Path, start: str, branch: str | None) -> None:
    """Have git put the revision there, over whatever an earlier run left."""
    if not (place / ".git").is_file():
        shutil.rmtree(place, ignore_errors=True)
        git(workspace, "worktree", "prune")
        git(workspace, "worktree", "add", "--quiet", "--detach", str(place), start)
    for left_behind in Path(git(place, "rev-parse", "--absolute-git-dir")).glob("*.lock"):
        left_behind.unlink()  # of a git that was killed: nobody else is here
    git(place, "reset", "--quiet", "--hard")
    git(place, "clean", "--quiet", "-d", "--force")
    if branch is None:
        git(place, "checkout", "--quiet", "--detach", start)
    else:
        began = git(place, "branch", "--list", branch)
        git(place, "checkout", "--quiet", "--ignore-other-worktrees", "-B", branch, branch if began else start)
    with atomic_file(place / ".dvc" / "config.local") as temporary:
        _write_config(workspace / ".dvc", temporary)


def _write_config(original: Path, file: Path) -> None:
    """DVC's settings that hold only here: the workspace's own cache and remotes, by paths that hold anywhere."""
    given = configparser.ConfigParser(interpolation=None)
    given.read((original / "config", original / "config.local"))
    local = configparser.ConfigParser(interpolation=None)
    local.read(original / "config.local")
    for name in given.sections():
        url = given[name].get("url", "")
        if url and "://" not in url:
            local.read_dict({name: {"url": os.path.normpath(original / url)}})
    cache = given.get("cache", "dir", fallback="cache")
    local.read_dict({"cache": {"dir": os.path.normpath(original / cache), "type": _LINKS}})
    with file.open("w") as text:
        local.write(text)


def _mirror(source: Path, target: Path) -> None:
    """Make `target` hold what `source` holds, by hard links: no file of a catalogue is ever written in place."""
    wanted = {Path(folder, name).relative_to(source) for folder, _, names in os.walk(source) for name in names}
    there = {Path(folder, name).relative_to(target) for folder, _, names in os.walk(target) for name in names}
    for name in there - wanted:
        (target / name).unlink()
    for name in sorted(wanted):
        one, other = source / name, target / name
        if name in there and one.stat().st_ino == other.stat().st_ino:
            continue
        with atomic_file(other) as temporary:
            try:
                os.link(one.resolve(), temporary)
            except OSError:  # another file system, or one without hard links
                shutil.copy2(one, temporary)
