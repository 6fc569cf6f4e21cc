"""Automations of a real server: somebody is told of a run that failed, and one that vanished does not stay Running."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from processes import wait_for

from flows.deployments import POOL, deploy
from flows.retrain import retrain


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A web server that keeps what is posted to it; its address, and what came."""
    came: list[dict[str, Any]] = []

    class Keeps(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
            pass

    server = HTTPServer(("127.0.0.1", 0), Keeps)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/failures", came
    server.shutdown()


@pytest.fixture
def worker(server: str, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of the pool, in a process of its own."""
    environment = os.environ | {"PREFECT_API_URL": server, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"]
    with (tmp_path / "worker.log").open("wb") as log:
        child = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    yield child
    kill_all(child)


@pytest.fixture
def deployed(server: str, small: Path) -> Iterator[Callable[..., Path]]:
    """Tells the server of the flows of a workspace; its automations are taken away at the end."""

    def make(**options: Any) -> Path:
        deploy(small, **options)
        return small

    yield make
    with get_client(sync_client=True) as client:
        for automation in client.request("POST", "/automations/filter").json():
            client.delete_automation(automation["id"])


def kill_all(child: subprocess.Popen[bytes]) -> None:
    """SIGKILL a process and all its children at once, as the loss of a machine does."""
    if child.poll() is None:
        family = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
        for process in family:
            process.send_signal(signal.SIGKILL)
    child.wait()


def state(run: FlowRun) -> str:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(run.id).state_name or ""


@pytest.mark.slow
def test_somebody_is_told_of_a_run_that_failed(server, deployed, receiver):
    """Which, what became of it, why, and where to look; and not of runs that end well."""
    url, came = receiver
    place = deployed(webhook=url)
    (place / "data/raw/one.mp4").write_text("bad")
    assert retrain(str(place), return_state=True).is_failed()
    wait_for(lambda: bool(came), 60)
    assert retrain(str(place), return_state=True).is_completed()
    told = came[0]
    assert all(one == told for one in came), "a call may be repeated, where the server's database was busy"
    assert told["run"] == "retrain, asked for" and told["state"] == "Failed" and "goodness" in told["message"]
    page, identity = told["link"].split("/runs/flow-run/")
    assert page == server.removesuffix("/api")
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(UUID(identity)).state_name == "Failed"


@pytest.mark.long
def test_a_run_that_vanished_is_marked_crashed_and_told_of(server, deployed, receiver, worker):
    """With its process, its worker dies: nobody is left to say so, and its place would be taken for ever."""
    url, came = receiver
    place = deployed(webhook=url, lost_s=45)
    (place / "dvc.yaml").write_text((place / "dvc.yaml").read_text().replace("$RIGHT", "sleep 500"))
    run = run_deployment("retrain/v2meow", parameters={"folder": str(place)}, timeout=0, as_subflow=False)
    assert isinstance(run, FlowRun)
    wait_for(lambda: state(run) == "Running", 120)
    kill_all(worker)
    wait_for(lambda: state(run) == "Crashed", 300)
    wait_for(lambda: bool(came), 60)
    assert came[0]["state"] == "Crashed" and "Not heard of" in came[0]["message"]
