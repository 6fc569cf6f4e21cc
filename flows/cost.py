"""What a run has used: CPU hours of its steps and their children, GPU hours of the steps that hold one; and its limit.

The costs of each step's last run are kept beside the workspace, so that a run ends before a step that it cannot pay.
"""

import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from v2meow.files import read_json, write_json

_KNOWN = Path(".dvc/tmp/v2meow/costs.json")
_LOOK_S = 5.0


class Meter:
    """Counts from its making; `gpus` says how many GPUs a step with that name holds while it runs."""

    def __init__(
        self, home: Path, gpus: dict[str, float], *, max_cpu_hours: float = 0.0, max_gpu_hours: float = 0.0
    ) -> None:
        self._file = home / _KNOWN
        self._gpus = gpus
        self._limits = {"CPU": max_cpu_hours, "GPU": max_gpu_hours}
        self._running: dict[str, float] = {}  # since when
        self._gpu_seconds = 0.0
        self._lock = threading.Lock()
        self._looked, self._cpu_seconds, self._before = 0.0, 0.0, _ended_children() + _living_children()
        self.began = time.monotonic()

    @property
    def cpu_hours(self) -> float:
        """Of all children, those that still run included; looked at every few seconds."""
        with self._lock:
            if time.monotonic() > self._looked + _LOOK_S:
                self._looked = time.monotonic()
                now = _ended_children() - self._before + _living_children()
                self._cpu_seconds = max(now, self._cpu_seconds)  # a child that ends right now is seen by neither
            return self._cpu_seconds / 3600

    @property
    def gpu_hours(self) -> float:
        running = sum(self._gpus.get(name, 0.0) * (time.monotonic() - since) for name, since in self._running.items())
        return (self._gpu_seconds + running) / 3600

    def overspent(self, more: dict[str, float] | None = None) -> str | None:
        """Why nothing more can be paid, `more` hours of CPU and GPU included; None while it can."""
        for kind, hours in (("CPU", self.cpu_hours), ("GPU", self.gpu_hours)):
            limit, wanted = self._limits[kind], hours + (more or {}).get(kind, 0.0)
            if limit and wanted > limit:
                return f"{wanted:.2g} {kind} hours are more than the recipe's limit of {limit:g}"
        return None

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Count a step; OverspentError before it begins, when what it took the last time can no longer be paid."""
        known = self._known()
        if reason := self.overspent(known.get(name)):
            raise OverspentError(f"{name} was not begun: with what it took the last time {reason}")
        cpu, self._running[name] = self.cpu_hours, time.monotonic()
        try:
            yield
        finally:
            seconds = self._gpus.get(name, 0.0) * (time.monotonic() - self._running.pop(name))
            self._gpu_seconds += seconds
        self._looked = 0.0
        known[name] = {"CPU": self.cpu_hours - cpu, "GPU": seconds / 3600}
        write_json(self._file, known)

    def told(self) -> dict[str, float]:
        """Hours so far."""
        self._looked = 0.0
        hours = (time.monotonic() - self.began) / 3600
        return {"hours": hours, "CPU hours": self.cpu_hours, "GPU hours": self.gpu_hours}

    def _known(self) -> dict[str, dict[str, float]]:
        with suppress(OSError, ValueError):
            return read_json(self._file)
        return {}


class OverspentError(RuntimeError):
    """A run that reached what the recipe lets it cost."""


def _ended_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _living_children() -> float:
    """CPU seconds of all descendants, with those that they have waited for."""
    seconds = 0.0
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            times = child.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
    return seconds
