"""Steps as a person sees them: one row a step on a terminal, one line a change elsewhere.

Draws on standard error and knows nothing of what drives the steps.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_MARKS = {"waiting": "·", "running": "▶", "done": "✓", "unchanged": "=", "failed": "✗"}
_STYLES = {"waiting": "dim", "running": "bold cyan", "done": "green", "unchanged": "dim", "failed": "bold red"}


class StepTable:
    """What is known of each step. Call it with (name, state, progress) as things change; it renders itself.

    `shares` are each step's nominal part of the whole time, in any unit; with them the remaining
    time is estimated from the steps that ran so far.
    """

    def __init__(self, names: list[str], shares: Mapping[str, float] | None = None) -> None:
        self._states = dict.fromkeys(names, "waiting")
        self._progress: dict[str, Any] = {}
        self._started: dict[str, float] = {}
        self._seconds: dict[str, float] = {}
        self._shares = shares or {}
        self._began = time.monotonic()

    def __call__(self, name: str, state: str, progress: dict[str, Any]) -> None:
        now = time.monotonic()
        self._states[name] = state
        self._progress = progress
        started = self._started.setdefault(name, now)
        self._seconds[name] = now - started

    def __rich__(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for name, state in self._states.items():
            running = state == "running"
            row = (Text(_MARKS[state]), Text(name), self._bar() if running else Text(state), Text(self._took(name)))
            table.add_row(*row, Text(self._note() if running else ""), style=_STYLES[state])
        table.add_row("", "total", "", clock(time.monotonic() - self._began), self._outlook())
        return table

    def line(self, name: str) -> str:
        """The step's present state as plain text."""
        return f"{name}: {self._states[name]} {self._took(name)}".rstrip()

    def remaining(self) -> float | None:
        """Estimated seconds still to go; None as long as nothing measured allows an estimate."""
        done = {name: self._shares.get(name, 0.0) * self._fraction(name) for name in self._seconds}
        share_done = sum(share for name, share in done.items() if self._states[name] != "unchanged")
        if not share_done:
            return None
        seconds = sum(self._elapsed(name) for name in done if self._states[name] != "unchanged")
        share_left = sum(
            self._shares.get(name, 0.0) * (1.0 - self._fraction(name))
            for name, state in self._states.items()
            if state in ("waiting", "running")
        )
        return seconds / share_done * share_left

    def _fraction(self, name: str) -> float:
        if self._states[name] != "running":
            return float(self._states[name] != "waiting")
        return self._progress["done"] / max(self._progress["total"], 1) if self._progress else 0.0

    def _elapsed(self, name: str) -> float:
        if self._states[name] == "running":
            return time.monotonic() - self._started[name]
        return self._seconds[name]

    def _took(self, name: str) -> str:
        shown = self._states[name] in ("running", "done", "failed")
        return clock(self._elapsed(name)) if shown else ""

    def _bar(self) -> RenderableType:
        if not self._progress:
            return Text("starting")
        return ProgressBar(total=self._progress["total"], completed=self._progress["done"], width=24)

    def _note(self) -> str:
        if not self._progress:
            return ""
        done, total, note = (self._progress[key] for key in ("done", "total", "note"))
        return f"{self._progress['label']} {done}/{total} {note}".rstrip()

    def _outlook(self) -> str:
        remaining = self.remaining()
        return f"about {clock(remaining)} to go" if remaining else ""


class _Lines:
    """The same for a log: one line when a step starts and one when it ends."""

    def __init__(self, table: StepTable, console: Console) -> None:
        self._table, self._console, self._last = table, console, ("", "")

    def __call__(self, name: str, state: str, progress: dict[str, Any]) -> None:
        self._table(name, state, progress)
        if (name, state) != self._last:
            self._last = (name, state)
            self._console.print(self._table.line(name), markup=False, highlight=False)


@contextmanager
def shown(names: list[str], shares: Mapping[str, float] | None = None) -> Iterator[StepTable | _Lines]:
    """Show the steps `names` while the block runs; tell of changes by calling what is yielded."""
    console = Console(stderr=True)
    table = StepTable(names, shares)
    if not console.is_terminal:
        yield _Lines(table, console)
        return
    with Live(table, console=console, refresh_per_second=5):
        yield table


def clock(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
