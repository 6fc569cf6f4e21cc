"""Runs that must not wait for an hour that a wrong clock had shown, and retrainings that must wait for one another."""

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.states import Pending
from processes import wait_for

from flows import up
from flows.alone import alone
from flows.asking import catch_up, due_or_under_way
from flows.deployments import deploy


def asked(place, when: datetime) -> FlowRun:
    run = run_deployment(
        "retrain/v2meow", parameters={"folder": str(place)}, scheduled_time=when, timeout=0, as_subflow=False
    )
    assert isinstance(run, FlowRun)
    return run


@pytest.mark.slow
def test_after_a_clock_was_set_back_what_it_had_made_late_is_due(server, small):
    """A run that its process took up already would hold its place until then, and nothing else run."""
    deploy(small)
    now = datetime.now(UTC)
    stuck, waiting, soon = (
        asked(small, now + timedelta(hours=5)),
        asked(small, now + timedelta(hours=5)),
        asked(small, now),
    )
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(stuck.id, Pending(), force=True)
        assert catch_up() == 2
        found = [client.read_flow_run(run.id) for run in (stuck, waiting, soon)]
    for run in found:
        assert run.state is not None and run.state.is_scheduled()
        assert run.state.state_details.scheduled_time is not None
        assert run.state.state_details.scheduled_time < now + timedelta(minutes=1)
    assert due_or_under_way("retrain", small) and catch_up() == 0


def test_a_clock_that_is_set_back_is_noticed(monkeypatch):
    """One that is corrected by seconds, or set forward, is none of it."""
    ahead = [0.0]
    monkeypatch.setattr(up.time, "time", lambda: time.monotonic() + ahead[0])
    clock = up.Clock()
    for ahead[0], noticed in ((-5.0, False), (7200.0, False), (7150.0, False), (0.0, True), (0.0, True)):
        assert clock.was_set_back() is noticed, ahead


def test_retrainings_of_a_workspace_wait_for_one_another(tmp_path):
    """Two at once would pay for the same steps twice."""
    told: list[str] = []
    began = threading.Event()

    def second() -> None:
        with alone(tmp_path, told.append):
            began.set()

    with alone(tmp_path, told.append):
        waiting = threading.Thread(target=second)
        waiting.start()
        wait_for(lambda: bool(told))
        assert not began.wait(1.5) and len(told) == 1
    assert began.wait(10)
    waiting.join()
