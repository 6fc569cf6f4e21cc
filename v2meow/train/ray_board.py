"""What workers of a training and the process that started them tell each other.

How far they are, what they say, who died; and in the other direction that they shall stop.
"""

import contextlib
import io
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from textwrap import shorten
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import UserCallback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from v2meow.files import read_json
from v2meow.preempt import Asked
from v2meow.progress import FILE_VARIABLE, progress

_LOOK_S = 1.0
_ANSWER_S = 10.0


class _Board:
    def __init__(self) -> None:
        self._state: dict[str, Any] | None = None
        self._lines: list[str] = []
        self._stop = False

    def show(self, state: dict[str, Any] | None) -> bool:
        """Show this progress. Whether to stop."""
        self._state = state
        return self._stop

    def stop(self) -> None:
        self._stop = True

    def say(self, line: str) -> None:
        self._lines.append(line)

    def read(self) -> tuple[dict[str, Any] | None, list[str]]:
        """The newest progress, and what was said since the last call."""
        lines, self._lines = self._lines, []
        return self._state, lines


def new_board() -> Any:
    """A board on this machine, which ends with this process."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return ray.remote(_Board).options(num_cpus=0, scheduling_strategy=here).remote()


@contextlib.contextmanager
def shown(board: Any) -> Iterator[None]:
    """While the block runs, show here what workers tell."""
    ended = threading.Event()
    thread = threading.Thread(target=_show, args=(board, ended), daemon=True, name="board")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=10 * _LOOK_S)


def _show(board: Any, ended: threading.Event) -> None:
    with contextlib.ExitStack() as stack:
        bar = None
        while True:
            last = ended.wait(_LOOK_S)
            try:
                state, lines = ray.get(board.read.remote(), timeout=_ANSWER_S)
            except Exception:  # a busy machine, a cluster that has lost a part; of its end the training tells
                if last:
                    return
                continue
            for line in lines:
                print(line, file=sys.stderr)
            if state:
                bar = bar or stack.enter_context(progress(state["label"], state["total"]))
                bar.advance(state["done"] - bar.done, note=state["note"])
            if last:
                return


@contextlib.contextmanager
def told(board: Any) -> Iterator[Asked]:
    """While the block runs, tell the board this worker's progress and what it prints on standard error.

    Yields a function that tells whether the workers are to stop.
    """
    ended, stop = threading.Event(), threading.Event()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(_Lines(board)):
        file = Path(folder) / "progress.json"
        os.environ[FILE_VARIABLE] = str(file)
        thread = threading.Thread(target=_tell, args=(board, file, ended, stop), daemon=True, name="board")
        thread.start()
        try:
            yield stop.is_set
        finally:
            ended.set()
            thread.join()


def _tell(board: Any, file: Path, ended: threading.Event, stop: threading.Event) -> None:
    while True:
        last = ended.wait(_LOOK_S)
        with contextlib.suppress(RayError):  # without its board a training ends soon, but not here
            if ray.get(board.show.remote(read_json(file) if file.exists() else None)):
                stop.set()
        if last:
            return


class _Lines(io.TextIOBase):
    """Standard error, line by line."""

    def __init__(self, board: Any) -> None:
        self._board, self._begun = board, ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._board.say.remote(line)
        return len(text)


class Obituaries(UserCallback):
    """Names the workers that died. Runs where Ray's controller runs."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for rank, error in sorted(worker_exceptions.items()):
            reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
            self._board.say.remote(f"worker {rank} failed: {shorten(reason, 200, placeholder=' …')}")
