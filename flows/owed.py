"""A retraining that began, or was asked for, and has not come to its end: it is asked for again, ever more rarely.

Whoever looks for new videos looks for that, too. Looks are counted, not seconds: a clock may jump. What a step cannot
do, or what it would cost too much to do, is an end: another run would fare no better.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flows.cost import OverspentError
from v2meow.files import read_json, write_json
from v2meow.workspace import StageError

MOST = 6  # times, at the first look after a failure, then after 2, 4, … 32 more
_FILE = Path(".dvc/tmp/v2meow/owed.json")


def owe(home: Path) -> None:
    """Say that a retraining was asked for: what comes of it is waited for."""
    write_json(home / _FILE, {"asked": 0, "looks": 0})


def settle(home: Path) -> None:
    """Nothing is owed: the retraining ended, or somebody does not want it."""
    (home / _FILE).unlink(missing_ok=True)


def is_owed(home: Path) -> bool:
    return (home / _FILE).is_file()


def look(home: Path) -> bool:
    """Whether to ask again now, where one is owed and none is under way."""
    asked, looks = _counts(home)
    if asked == MOST:
        return False
    due = looks + 1 >= 2**asked
    write_json(home / _FILE, {"asked": asked + due, "looks": 0 if due else looks + 1})
    return due


@contextmanager
def until_ended(home: Path) -> Iterator[None]:
    """A retraining: it is owed from here on until it ends, and stays so when it is killed, or what it needs is away."""
    if not is_owed(home):
        owe(home)
    try:
        yield
    except (StageError, OverspentError):
        settle(home)
        raise
    settle(home)


def _counts(home: Path) -> tuple[int, int]:
    with suppress(OSError, ValueError, LookupError):
        found = read_json(home / _FILE)
        return int(found["asked"]), int(found["looks"])
    return 0, 0
