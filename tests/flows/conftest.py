"""One Prefect server for all tests of flows, and a pipeline of moments that ends in a bundle and a verdict."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.testing.utilities import prefect_test_harness

from v2meow import workspace
from v2meow.registry import REGISTRY_VARIABLE

_MAKE = """
import json, sys
from pathlib import Path
from v2meow import bundle

digest = bundle.assemble({"recipe.yaml": Path("left.txt")}, Path("models/bundle"))
passed = "bad" not in Path("left.txt").read_text()
criteria = [{"metric": "goodness", "passed": passed, "reason": "is looked at", "value": 1.0}]
verdict = {"passed": passed, "bundle": digest, "recipe": "nano", "criteria": criteria}
Path("reports").mkdir(exist_ok=True)
Path("reports/verdict.json").write_text(json.dumps(verdict))
"""


def _stage(command: str, deps: list[str], outs: list[str], **more: Any) -> dict[str, Any]:
    return {"cmd": command, "deps": deps, "outs": outs, "meta": {"retries": 0, "timeout_s": 60}} | more


PIPELINE: dict[str, Any] = {
    "stages": {
        "gather": _stage("cat data/raw/* > all.txt; echo gather >> $TRACE", ["data/raw"], ["all.txt"]),
        "left": _stage("cp all.txt left.txt; echo left >> $TRACE", ["all.txt"], ["left.txt"]),
        "right": _stage('sh -c "$RIGHT"; cp all.txt right.txt; echo right >> $TRACE', ["all.txt"], ["right.txt"]),
        "gate": _stage(
            f"{sys.executable} models/make.py",
            ["left.txt", "right.txt", "models/make.py"],
            ["models/bundle"],
            metrics=[{"reports/verdict.json": {"cache": False}}],
        ),
    }
}


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """A Prefect server on a database of its own; its API's address."""
    with prefect_test_harness(server_startup_timeout=120):
        from prefect.settings import PREFECT_API_URL

        yield str(PREFECT_API_URL.value())


@pytest.fixture(scope="session")
def _small(untouched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = shutil.copytree(untouched, tmp_path_factory.mktemp("small") / "ws", symlinks=True)
    (place / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE))
    (place / "models").mkdir(exist_ok=True)
    (place / "models/make.py").write_text(_MAKE)
    workspace.snapshot(place, "A small pipeline")
    return place


@pytest.fixture
def small(_small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with that pipeline; the steps that ran stand in tmp_path / "trace"."""
    place = shutil.copytree(_small, tmp_path / "ws", symlinks=True)
    (place / "data/raw").mkdir(parents=True, exist_ok=True)
    (place / "data/raw/one.mp4").write_text("one")
    monkeypatch.setenv("TRACE", str(tmp_path / "trace"))
    monkeypatch.setenv("RIGHT", "true")  # what the step `right` does first
    monkeypatch.setenv(REGISTRY_VARIABLE, str(place / "registry"))
    return place


@pytest.fixture
def started(server: str) -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Starts `retrain` in a process of its own."""
    children: list[subprocess.Popen[str]] = []

    def start(place: Path) -> subprocess.Popen[str]:
        script = "import sys; from flows.retrain import retrain; print(retrain(sys.argv[1], return_state=True))"
        child = subprocess.Popen(
            [sys.executable, "-c", script, str(place)],
            env=os.environ | {"PREFECT_API_URL": server},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
