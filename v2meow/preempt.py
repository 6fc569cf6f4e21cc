"""Stopping at a good moment: SIGTERM asks a process to end soon, because its machine is needed, and to go on later.

Whoever can be stopped so writes its process id where `PID_VARIABLE` says: a driver that is itself asked to stop hands
the question on to it, past the shell and DVC in between, which would die of the signal and leave the step behind.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

CONTINUE_LATER = os.EX_TEMPFAIL  # 75, the exit status of a process that was asked to stop: start it again
PID_VARIABLE = "V2MEOW_STOPPABLE_PID"  # names the file

Asked = Callable[[], bool]


class Interrupted(Exception):  # noqa: N818
    """No error: work that stopped as asked and goes on when it is started again; the message says so in one line."""


def never() -> bool:
    """For work that nobody asks to stop."""
    return False


@contextmanager
def asked_to_stop() -> Iterator[Asked]:
    """Yield a function that tells whether SIGTERM came; inside the block it does nothing else.

    Only the main thread can do that: in others the answer is always no, and SIGTERM does what it did.
    """
    if threading.current_thread() is not threading.main_thread():
        yield never
        return
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def stoppable() -> Iterator[Asked]:
    """`asked_to_stop` in a step: its driver, where there is one, learns whom to ask."""
    file = os.environ.get(PID_VARIABLE)
    with asked_to_stop() as asked:
        if file is None or asked is never:
            yield asked
            return
        Path(file).write_text(str(os.getpid()))
        try:
            yield asked
        finally:
            Path(file).unlink(missing_ok=True)
