"""What a workspace held at an earlier revision: files from git, data from DVC's cache or remote.

Knows nothing of what the files mean.
"""

import re
import subprocess
import sys
from pathlib import Path

from v2meow.workspace.errors import WorkspaceError
from v2meow.workspace.folder import child_environment


def file_at(workspace: Path, revision: str, path: str) -> bytes | None:
    """A file as it was committed; None when this repository has no such revision, or no such file in it."""
    return _git(workspace, "show", f"{revision}:./{path}") if _is_hash(revision) else None


def committed(workspace: Path, path: str) -> bytes | None:
    """A file as the present commit has it; None without one."""
    return _git(workspace, "show", f"HEAD:./{path}")


def revision_of(workspace: Path, name: str) -> str:
    """The hash of the commit that a branch, a tag or HEAD~1 names. WorkspaceError when git knows none."""
    found = _git(workspace, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    if found is None:
        raise WorkspaceError(f"{workspace}: git knows no revision {name!r}")
    return found.decode().strip()


def subject_at(workspace: Path, revision: str) -> str | None:
    """The first line of a commit's message and its date; None when this repository has no such revision."""
    if not _is_hash(revision):
        return None
    shown = _git(workspace, "show", "--no-patch", "--format=%s, %ci", revision, "--")
    return None if shown is None else shown.decode(errors="replace").strip()


def fetch_at(workspace: Path, revision: str, path: str, out: Path) -> None:
    """Write data as it was at a revision to the new path `out`. WorkspaceError with DVC's reason when it has it not."""
    command = [sys.executable, "-m", "dvc", "get", "--quiet", "--rev", revision, str(workspace), path, "-o", str(out)]
    done = subprocess.run(command, cwd=workspace, env=child_environment(), capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip() and "Having any troubles" not in line]
        reason = said[-1] if said else "no reason given"
        raise WorkspaceError(f"{workspace}: DVC cannot give {path} of {revision[:12]}: {reason}")


def locked(lock: bytes) -> dict[str, str]:
    """The hash of every output that a dvc.lock pins, by its path."""
    import yaml

    stages = (yaml.safe_load(lock) or {}).get("stages", {}).values()
    outs = [out for stage in stages for out in stage.get("outs", ())]
    return {out["path"]: out.get("md5") or out.get("hash", "") for out in outs}


def moved_on(lock: bytes) -> list[str]:
    """Outputs that changed since a later step read them, by dvc.lock alone: what came of them is of another version."""
    import yaml

    stages = (yaml.safe_load(lock) or {}).get("stages", {}).values()
    outs = locked(lock)
    deps = [dep for stage in stages for dep in stage.get("deps", ())]
    return sorted({dep["path"] for dep in deps if outs.get(dep["path"], dep.get("md5")) != dep.get("md5")})


def _is_hash(revision: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{7,64}", revision) is not None


def _git(workspace: Path, *arguments: str) -> bytes | None:
    done = subprocess.run(["git", *arguments], cwd=workspace, env=child_environment(), capture_output=True)
    return done.stdout if done.returncode == 0 else None
