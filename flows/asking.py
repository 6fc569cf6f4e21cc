"""Asking a Prefect server for a run of a flow, and what became of it."""

import time
from contextlib import suppress
from dataclasses import dataclass
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
from prefect.deployments import run_deployment

_LOOK_S = 1.0


@dataclass(frozen=True)
class Ended:
    """How a run stands, in words, and whether that is good."""

    told: str
    good: bool


def ask(flow: str, *, wait: bool, **parameters: Any) -> Ended:
    """Have the deployment of `flow` run; with `wait`, until it has ended."""
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
    running = FlowRunFilterState(
        type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.PAUSED])
    )
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])), flow_run_filter=FlowRunFilter(state=running)
        )
