"""One retraining of a workspace at a time, by a lock that lives as long as its process.

Prefect has places for runs, too. It takes them from a run that it has not heard of, by the wall clock: where that
is set forward, a run that is well and under way loses its place.
"""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_LOCK = Path(".dvc/tmp/v2meow/retrain.lock")
_LOOK_S = 1.0


@contextmanager
def alone(home: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Wait until no other process retrains the workspace, and keep others waiting."""
    (home / _LOCK).parent.mkdir(parents=True, exist_ok=True)
    told = False
    with (home / _LOCK).open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    say("another retraining is at work: this one waits for its end")
                told = True
                time.sleep(_LOOK_S)  # not in the kernel: a run that is cancelled must hear of it
        yield
