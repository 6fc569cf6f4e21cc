"""Progress of long work: a bar on a terminal, or a small file that a parent process shows.

A step does not know who watches. When `V2MEOW_PROGRESS` names a file, each update replaces it
with `{"label", "done", "total", "note"}`; otherwise a Rich bar is drawn on standard error.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

FILE_VARIABLE = "V2MEOW_PROGRESS"
_INTERVAL_S = 0.2


class Progress:
    """Counts `total` units of work under one label; `advance` is cheap enough for inner loops."""

    def __init__(self, label: str, total: int, show: Callable[["Progress", str], None]) -> None:
        self.label, self.total, self.done = label, total, 0
        self._show, self._shown_at = show, 0.0

    def advance(self, units: int = 1, note: str = "") -> None:
        """Count `units` as done. `note` is a short figure to watch, such as `loss 2.31`."""
        self.done += units
        now = time.monotonic()
        if now - self._shown_at >= _INTERVAL_S or self.done >= self.total:
            self._shown_at = now
            self._show(self, note)


@contextmanager
def progress(label: str, total: int, *, quiet: bool = False) -> Iterator[Progress]:
    """Show the progress of `total` units of work while the block runs, unless another process does."""
    if quiet:
        yield Progress(label, total, lambda *_: None)
        return
    file = os.environ.get(FILE_VARIABLE)
    if file:
        yield Progress(label, total, lambda state, note: _write(Path(file), state, note))
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(label, total=total, note="")
        yield Progress(label, total, lambda state, note: bars.update(task, completed=state.done, note=note))


def _write(file: Path, state: Progress, note: str) -> None:
    """Replace the file whole, so that its reader never sees half a line."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(json.dumps({"label": state.label, "done": state.done, "total": state.total, "note": note}))
    temporary.replace(file)
