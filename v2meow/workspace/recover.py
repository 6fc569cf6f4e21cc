"""What DVC rewrites in place and a killed machine leaves unusable, removed before the next run.

A SIGKILL of a run alone needs none of this: DVC then ends by itself. A container that is killed
whole, or a power cut, can tear these files, and DVC would refuse to work until a person removes them.
"""

import json
from pathlib import Path

import yaml


def discard_torn_files(workspace: Path) -> None:
    """Remove DVC's lock files that no longer mean anything. Call it inside `owned`."""
    pipeline_lock = workspace / "dvc.lock"
    if pipeline_lock.exists() and not _is_sound(pipeline_lock):
        pipeline_lock.unlink()  # costs a look at the outputs: DVC's run cache knows what each step made
    running = workspace / ".dvc" / "tmp" / "rwlock"
    if running.exists() and not any(_is_dvc(pid) for pid in _holders(running)):
        running.unlink()


def _is_sound(pipeline_lock: Path) -> bool:
    try:
        content = yaml.safe_load(pipeline_lock.read_text())
    except (yaml.YAMLError, UnicodeDecodeError):
        return False
    return isinstance(content, dict) and isinstance(content.get("stages"), dict)


def _holders(running: Path) -> set[int]:
    """Processes that DVC noted as reading or writing the workspace's files; none when the note is torn."""
    try:
        notes = json.loads(running.read_text())
        readers = [info for infos in notes["read"].values() for info in infos]
        return {int(info["pid"]) for info in (*notes["write"].values(), *readers)}
    except (ValueError, LookupError, TypeError, AttributeError):
        return set()


def _is_dvc(pid: int) -> bool:
    """DVC itself asks only whether the pid exists: after a container's restart some other process has it."""
    import psutil  # comes with DVC, and is not needed without it

    try:
        return any("dvc" in word for word in psutil.Process(pid).cmdline())
    except psutil.Error:
        return False
