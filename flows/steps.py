"""The pipeline's steps as Prefect's tasks: derived from DVC's graph, so that dvc.yaml alone says what needs what.

DVC alone decides what is out of date. A step whose process is asked to stop saves what it has learnt.
"""

import queue
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import Task, get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.concurrency.sync import concurrency
from prefect.futures import PrefectFuture
from prefect.states import Completed

from flows.cost import Meter, OverspentError
from v2meow import release, workspace
from v2meow.preempt import Interrupted
from v2meow.workspace import Progress, StageError

UNCHANGED = "Unchanged"  # the name of the state of a step that DVC found up to date
_RETRY_S = 10.0
_SHOW_S = 5.0
_LEASE_S = 60.0  # after which a killed run's hold on a limit is void


@dataclass(kw_only=True)
class Pipeline:
    """One run of the steps in the worktree `place` of the workspace `home`; `width` of them at once."""

    home: Path
    place: Path
    branch: str
    meter: Meter
    width: int = 1
    retry_s: float = _RETRY_S
    ran: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)
    _dvc: threading.Lock = field(default_factory=threading.Lock)  # DVC's interface is for one thread at a time

    def run(self) -> list[str]:
        """Run what is out of date, each step after those that it needs, and return the steps that ran.

        Must be called inside a flow. Raises StageError of the first step that fails for good.
        """
        self.needs = workspace.graph(self.place)
        self.outdated = set(workspace.stale(self.place))
        if not self.outdated:
            return []
        if release.note_production(self.place):  # only now: a promotion alone is no reason to evaluate again
            self.outdated = set(workspace.stale(self.place))
        tasks, told = self.tasks(), workspace.meta(self.place)
        self.limits = {name: said.get("limit") for name, said in told.items()}
        self.timeouts = {name: float(said.get("timeout_s", 86400)) for name, said in told.items()}
        try:
            self._run_in_order(tasks)
        except BaseException:
            self.stopped.set()
            raise
        return self.ran

    def tasks(self) -> dict[str, Task[..., Any]]:
        """A task for every step."""
        return {name: self._task(name, said) for name, said in workspace.meta(self.place).items()}

    def _task(self, name: str, said: dict[str, Any]) -> Task[..., Any]:
        @task(
            name=name,
            task_run_name=name,
            retries=int(said.get("retries", 0)),
            retry_delay_seconds=self.retry_s,
            cache_policy=NO_CACHE,
            persist_result=False,
        )
        def step() -> State[None] | None:
            return self._step(name)

        return step

    def _run_in_order(self, tasks: dict[str, Task[..., Any]]) -> None:
        order, ended = TopologicalSorter(self.needs), queue.SimpleQueue[str]()
        order.prepare()
        futures: dict[str, PrefectFuture[Any]] = {}
        ready, running = list(order.get_ready()), 0
        while ready or running:
            while ready and running < self.width:
                name = ready.pop(0)
                futures[name] = tasks[name].submit(wait_for=[futures[needed] for needed in self.needs[name]])
                futures[name].add_done_callback(lambda _, name=name: ended.put(name))
                running += 1
            with suppress(queue.Empty):
                name = ended.get(timeout=0.5)  # a wait that signals can interrupt
                running -= 1
                futures[name].result()
                order.done(name)
                ready += order.get_ready()

    def _step(self, name: str) -> State[None] | None:
        with self._dvc:
            up_to_date = name not in (workspace.stale(self.place, name) if self.ran else self.outdated)
        if up_to_date:
            return Completed(name=UNCHANGED, message="up to date")
        limit = self.limits[name]
        if limit:
            with concurrency(limit, occupy=1, lease_duration=_LEASE_S):
                self._work(name)
        else:
            self._work(name)
        self.ran.append(name)
        return None

    def _work(self, name: str) -> None:
        with self.meter.step(name):
            if self.width == 1:
                self._watched(self.place, name)
                return
            with self._dvc:
                workspace.snapshot(self.place, f"Before {name}")
            with workspace.worktree(self.home, self.branch, videos=self.place) as side:
                self._watched(side, name)
            with self._dvc:
                self._watched(self.place, name)  # which brings what was made there, from DVC's run cache

    def _watched(self, place: Path, name: str) -> None:
        """Run the step until it ends, or there is a reason to stop it."""
        until = time.monotonic() + self.timeouts[name]

        def asked() -> bool:
            return self.stopped.is_set() or time.monotonic() > until or self.meter.overspent() is not None

        try:
            workspace.run_stage(place, name, _Shown(name), asked)
        except Interrupted as reason:
            if self.stopped.is_set():
                raise
            if spent := self.meter.overspent():
                self.stopped.set()  # and no retry is worth it
                raise OverspentError(f"{name} was stopped: {spent}") from None
            if time.monotonic() > until:
                raise StageError(f"{name} took longer than {self.timeouts[name]:g} s and was stopped") from None
            raise StageError(str(reason)) from None


class _Shown:
    """A step's own progress on the run's page, and in its log."""

    def __init__(self, name: str) -> None:
        self.name, self.shown = name, 0.0
        self.artifact: UUID | None = None
        self.log = get_run_logger()

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() < self.shown + _SHOW_S or not progress.get("total"):
            return
        self.shown = time.monotonic()
        share = 100.0 * progress["done"] / progress["total"]
        words = f"{progress['label']}: {progress['done']} of {progress['total']} {progress['note']}"
        self.log.info(words)
        with suppress(Exception):  # a page that misses a bar must not end a training
            if self.artifact is None:
                key = "".join(letter if letter.isalnum() else "-" for letter in self.name)
                made = create_progress_artifact(share, key=key, description=words)
                self.artifact = made if isinstance(made, UUID) else None
            else:
                update_progress_artifact(self.artifact, share, description=words)
