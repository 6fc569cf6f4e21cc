"""One driver a workspace, and no orphans when it dies.

Whoever runs steps holds an exclusive `flock` on one file. The kernel drops it however the process
ends, SIGKILL included. Each step watches the lock from a thread and exits once its owner is gone,
so that a killed run never trains on behind the back of the next one.
"""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from v2meow.workspace.errors import WorkspaceError
from v2meow.workspace.recover import discard_torn_files

VARIABLE = "V2MEOW_OWNER_LOCK"  # "<pid of the owner>@<path of the lock>", for the steps that it starts
ORPHANED = 75  # exit status of a step whose owner died: EX_TEMPFAIL, worth repeating

_WATCH_S = 0.5
_ACQUIRE_S = 2.0  # a dying orphan's look at the lock holds it for an instant


@contextmanager
def owned(workspace: Path) -> Iterator[None]:
    """Be the only one who runs steps in `workspace` while the block runs.

    Raises WorkspaceError naming the other process when there is one.
    """
    path = lock_path(workspace)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as lock:
        _acquire(lock, workspace)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        discard_torn_files(workspace)
        yield


def lock_path(workspace: Path) -> Path:
    return workspace.resolve() / ".dvc" / "tmp" / "v2meow.lock"


def owner_environment(workspace: Path) -> dict[str, str]:
    """What a step that this process starts must find in its environment to be ended with it."""
    return {VARIABLE: f"{os.getpid()}@{lock_path(workspace)}"}


def watch_owner() -> None:
    """In a step: end this process within a second of its owner's death. Without an owner, do nothing."""
    owner, _, path = os.environ.get(VARIABLE, "").partition("@")
    if path:
        threading.Thread(target=_watch, args=(owner, Path(path)), name="owner watch", daemon=True).start()


def _acquire(lock: IO[str], workspace: Path) -> None:
    deadline = time.monotonic() + _ACQUIRE_S
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                lock.seek(0)
                raise WorkspaceError(f"another run is using {workspace} (pid {lock.read() or 'unknown'})") from None
        time.sleep(0.1)


def _watch(owner: str, path: Path) -> None:
    while _holds(owner, path):
        time.sleep(_WATCH_S)
    # Not sys.exit, which would end this thread only. What was being written appears whole or not at all.
    os._exit(ORPHANED)


def _holds(owner: str, path: Path) -> bool:
    """Whether `owner` still holds the lock. A free lock, or one that a later run took, means it died."""
    try:
        with path.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return path.read_text() == owner
    except FileNotFoundError:
        pass  # the workspace was deleted under its run
    return False
