"""A wall clock that is set: forward over many turns of a schedule, and back. `v2meow up` as it is."""

import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from processes import wait_for

from flows.up import environment
from v2meow import release

HOURS = 5


class WrongClock:
    """How far the wall clock of processes that were started with `environment` is ahead of the true one."""

    def __init__(self, folder: Path) -> None:
        self._file, library = folder / "ahead", folder / "wrong_clock.so"
        self._file.write_bytes(struct.pack("q", 0))
        source = Path(__file__).with_name("wrong_clock.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        self.environment = {"LD_PRELOAD": str(library), "WRONG_CLOCK": str(self._file)}

    def set(self, hours: float) -> None:
        with self._file.open("r+b") as file:  # in place: it is mapped
            file.write(struct.pack("q", round(3600 * hours)))


@pytest.fixture
def clock(tmp_path: Path) -> WrongClock:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler here: the library that sets clocks wrong is made with it")
    return WrongClock(tmp_path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


@pytest.fixture
def up(small: Path, clock: WrongClock, free_port: int, tmp_path: Path, source: Path, monkeypatch) -> Iterator[str]:
    """`v2meow up` on a workspace that looks every minute and retrains twice an hour; its API's address."""
    monkeypatch.setenv("RIGHT", "sleep 25")  # a run lasts as long as it takes to set a clock in it
    recipe = yaml.safe_load((small / "recipe.yaml").read_text())
    recipe["data"]["source"] = str(source)
    recipe["retrain"] = {"cron": "*/30 * * * *", "poll_minutes": 1.0, "store": False}
    (small / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", "v2meow.cli", "up", "--workspace", str(small), "--port", str(free_port)]
    with (tmp_path / "up.log").open("wb") as log:
        child = subprocess.Popen(command, env=os.environ | clock.environment, stdout=log, stderr=log)
    try:
        wait_for(lambda: child.poll() is not None or b"Ctrl-C ends it" in (tmp_path / "up.log").read_bytes(), 180)
        url = environment(small, free_port)["PREFECT_API_URL"]
        with temporary_settings({PREFECT_API_URL: url}):
            yield url
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(60)


def runs(flow: str, *states: StateType) -> list[FlowRun]:
    """Runs of a flow in one of these states, 200 at most."""
    wanted = FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states)))
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])), flow_run_filter=FlowRunFilter(state=wanted)
        )


def trace(place: Path) -> list[str]:
    """The steps that ran."""
    file = place.parent / "trace"
    return file.read_text().split() if file.exists() else []


def ended_by_schedule() -> int:
    return sum(run.auto_scheduled for run in runs("retrain", StateType.COMPLETED))


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_a_clock_that_jumps_over_a_schedule_and_back(small, clock, up):
    """Late runs come one by one; after the jump back nothing waits for the hour that the clock had shown."""
    registry = release.registry(small)

    def staged() -> str | None:
        return registry.state("v2meow").stages.get("staging")

    def make(number: int, ahead: float) -> None:
        """A version of new videos, in whose midst the clock is set."""
        if number > 1:
            (small / "data/raw/one.mp4").write_text(f"videos of v{number}")
        wait_for(lambda: trace(small).count("left") == number, 400)
        clock.set(ahead)
        wait_for(lambda: "v2meow" in registry.models() and staged() == f"v{number}", 400)

    make(1, HOURS)
    wait_for(lambda: ended_by_schedule() > 0, 400)
    make(2, HOURS)
    make(3, 0)
    make(4, 0)
    assert trace(small) == ["gather", "left", "right"] * 4, "two trained at once, or one for nothing"
    history = registry.state("v2meow").history
    assert [event.number for event in history] == list(range(1, len(history) + 1))
    assert staged() == "v4", "the log's order decides, not its times"
    hours = [datetime.fromisoformat(event.time) for event in history]
    assert max(hours) - hours[-1] > timedelta(hours=HOURS - 1)
