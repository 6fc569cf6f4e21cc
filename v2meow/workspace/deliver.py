"""Bringing a run's branch home: into the workspace's own branch, to the git remote, its data to DVC's remote.

What steps made (dvc.lock, reports) is taken whole from whoever comes last, never line by line: a lock file describes
one set of outputs. Everything else merges as git merges it. Killed anywhere, all of it can be repeated.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from v2meow.workspace.errors import WorkspaceError
from v2meow.workspace.folder import snapshot
from v2meow.workspace.owner import owned
from v2meow.workspace.worktree import dvc, git, restore

DERIVED = ("dvc.lock", "reports")
_PUSHES = 8
_PATIENCE_S = 120.0  # with another run in the workspace itself
_IDENTITY = ("-c", "user.name=v2meow", "-c", "user.email=v2meow@localhost", "-c", "commit.gpgsign=false")
_REFUSED = ("[rejected]", "fetch first", "non-fast-forward", "[remote rejected]", "failed to push some refs")


def refresh(workspace: Path) -> str:
    """Commit what stands in the workspace, bring in what its git remote has, and return the revision."""
    with _mine(workspace):
        snapshot(workspace, "As it is before a run")
        if remote := _remote(workspace):
            _merge_remote(workspace, remote)
        return git(workspace, "rev-parse", "HEAD")


def deliver(workspace: Path, branch: str) -> str:
    """Merge a run's branch into the workspace's, push that, make the outputs those of the merge; the revision.

    A push that somebody else was quicker with is repeated upon what they pushed. WorkspaceError when git fails, or
    another process keeps the workspace busy; the branch stays, and the next delivery takes it along.
    """
    with _mine(workspace):
        snapshot(workspace, "As it is after a run")
        remote = _remote(workspace)
        for _ in range(_PUSHES):
            if remote:
                _merge_remote(workspace, remote)
            _merge(workspace, branch)
            if remote is None or _pushed(workspace, remote):
                restore(workspace)
                return git(workspace, "rev-parse", "HEAD")
        raise WorkspaceError(f"{workspace}: {remote} refused {_PUSHES} pushes in a row: is its branch protected?")


def undelivered(workspace: Path) -> list[str]:
    """Branches of runs that the workspace's branch does not hold yet."""
    listed = git(workspace, "branch", "--list", "runs/*", "--no-merged", "HEAD", "--format=%(refname:short)")
    return listed.split()


def store(place: Path) -> bool:
    """Push outputs and the run cache to DVC's default remote, where there is one. WorkspaceError when it fails."""
    if not any(line.startswith("core.remote=") for line in dvc(place, "config", "--list").splitlines()):
        return False
    dvc(place, "push", "--quiet", "--run-cache")
    return True


def added_bytes(before: bytes | None, after: bytes) -> int:
    """Size of the outputs that one dvc.lock pins and an earlier one does not."""
    known = {digest for digest, _ in _outputs(before or b"")}
    return sum(size for digest, size in _outputs(after) if digest not in known)


def _outputs(lock: bytes) -> set[tuple[str, int]]:
    import yaml

    stages = (yaml.safe_load(lock) or {}).get("stages", {}).values()
    return {(out.get("md5", ""), int(out.get("size", 0))) for stage in stages for out in stage.get("outs", ())}


@contextmanager
def _mine(workspace: Path) -> Iterator[None]:
    """`owned`, with patience: others deliver, too."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        mine = owned(workspace)
        try:
            mine.__enter__()
            break
        except WorkspaceError:
            if time.monotonic() > deadline:
                raise
    try:
        yield
    finally:
        mine.__exit__(None, None, None)


def _remote(workspace: Path) -> str | None:
    """The git remote that runs are shared through."""
    return "origin" if "origin" in git(workspace, "remote").split() else None


def _branch(workspace: Path) -> str:
    return git(workspace, "symbolic-ref", "--short", "HEAD")


def _merge_remote(workspace: Path, remote: str) -> None:
    git(workspace, "fetch", "--quiet", remote)
    theirs = f"refs/remotes/{remote}/{_branch(workspace)}"
    if git(workspace, "for-each-ref", "--format=%(refname)", theirs):
        _merge(workspace, theirs)


def _merge(workspace: Path, revision: str) -> None:
    """Merge; of what steps made, `revision` has the last word where both sides changed."""
    if not git(workspace, "rev-list", "--max-count=1", f"HEAD..{revision}"):
        return
    if not git(workspace, "rev-list", "--max-count=1", f"{revision}..HEAD"):
        git(workspace, "merge", "--quiet", "--ff-only", revision)
        return
    try:
        try:
            git(workspace, *_IDENTITY, "merge", "--quiet", "--no-ff", "--no-commit", revision)
        except WorkspaceError:
            if not (conflicts := _conflicts(workspace)) or not all(map(_is_derived, conflicts)):
                raise
        made = git(workspace, "ls-tree", "--name-only", revision, *DERIVED).split()
        if made:
            git(workspace, "checkout", "--quiet", revision, "--", *made)
        if left := _conflicts(workspace):
            git(workspace, "rm", "--quiet", "--", *left)  # made anew on one side, gone on the other
        git(workspace, *_IDENTITY, "commit", "--quiet", "--no-verify", "-m", f"Merge {revision.removeprefix('refs/')}")
    except WorkspaceError as error:
        git(workspace, "reset", "--quiet", "--merge")
        raise WorkspaceError(f"{error}; {revision} waits: merge it by hand, `git merge {revision}`") from error


def _conflicts(workspace: Path) -> list[str]:
    return git(workspace, "diff", "--name-only", "--diff-filter=U").splitlines()


def _is_derived(path: str) -> bool:
    return path.split("/")[0] in DERIVED


def _pushed(workspace: Path, remote: str) -> bool:
    """Whether the remote took it; False when somebody else was quicker."""
    try:
        git(workspace, "push", "--quiet", remote, f"HEAD:refs/heads/{_branch(workspace)}")
    except WorkspaceError as error:
        if any(sign in str(error) for sign in _REFUSED):
            return False
        raise
    return True
