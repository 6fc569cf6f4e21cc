"""Asking a Prefect server for a run of a flow, and what became of it."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments import run_deployment
from prefect.states import Scheduled

_LOOK_S = 1.0


@dataclass(frozen=True)
class Ended:
    """How a run stands, in words, and whether that is good."""

    told: str
    good: bool


def ask(flow: str, *, wait: bool, **parameters: Any) -> Ended:
    """Have the deployment of `flow` run; with `wait`, until it has ended."""
    if flow == "retrain":
        parameters.setdefault("reason", "asked for")  # a deployment's own is that of its schedule
    found = run_deployment(f"{flow}/v2meow", parameters=parameters, timeout=0, as_subflow=False)
    assert isinstance(found, FlowRun)
    if not wait:
        return Ended(f"{flow} will run as {found.id}", good=True)
    while not (found.state and found.state.is_final()):
        time.sleep(_LOOK_S)
        with suppress(httpx.TransportError):  # the server is away for a moment: the run goes on
            found = look(found.id)
    return Ended(f"{flow}: {found.state.name}, {found.state.message}", good=found.state.is_completed())


def look(run: UUID) -> FlowRun:
    """A run as the server knows it now."""
    with get_client(sync_client=True) as client:
        return client.read_flow_run(run)


def under_way(flow: str) -> list[FlowRun]:
    """Runs of a flow that have begun and not ended."""
    return _runs(flow, _BEGUN)


def due_or_under_way(flow: str, home: Path) -> bool:
    """Whether a run for the workspace `home` has begun, or will as soon as there is a place for it."""
    now = datetime.now(UTC)
    runs = _of(home, _runs(flow, (*_BEGUN, StateType.SCHEDULED)))
    return any(
        not (run.state_type == StateType.SCHEDULED and run.auto_scheduled and (run.expected_start_time or now) > now)
        for run in runs
    )


def was_cancelled(flow: str, home: Path) -> bool:
    """Whether the run for `home` that ended last was cancelled by somebody."""
    ended = _of(home, _runs(flow, _ENDED))
    return bool(ended) and ended[0].state_type == StateType.CANCELLED


def catch_up() -> int:
    """After the clock was set back: runs that would wait for the hour that it had shown are due now; how many.

    One that a process has taken up already holds its place while it waits: it is given to another process. When the
    first awakes, it finds the run ended and goes.
    """
    now = datetime.now(UTC)
    waiting = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED, StateType.PENDING]))
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=FlowRunFilter(state=waiting))
        late = [
            run for run in found if (run.next_scheduled_start_time or run.expected_start_time or now) > now + _AHEAD
        ]
        stuck = [run for run in late if run.state_type == StateType.PENDING or not run.auto_scheduled]
        for run in stuck:
            client.set_flow_run_state(run.id, Scheduled(scheduled_time=now))
    return len(stuck)


_AHEAD = timedelta(minutes=1)
_BEGUN = (StateType.RUNNING, StateType.PENDING, StateType.PAUSED, StateType.CANCELLING)
_ENDED = (StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED)


def _runs(flow: str, states: Sequence[StateType]) -> list[FlowRun]:
    """Runs in one of these states, the one that ended last first."""
    wanted = FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states)))
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])),
            flow_run_filter=FlowRunFilter(state=wanted),
            sort=FlowRunSort.END_TIME_DESC,
        )


def _of(home: Path, runs: list[FlowRun]) -> list[FlowRun]:
    """Those for a workspace: a server may know several."""
    return [run for run in runs if Path(str(run.parameters.get("folder", ""))) == home]
