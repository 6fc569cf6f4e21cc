"""Training by Ray Train, on two machines of a cluster in miniature: the same curve, whatever dies on the way."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import yaml
from catalogues import CHANGES, QUICK, TWO, write_examples
from events import shown_steps

from v2meow import workspace
from v2meow.config import Recipe
from v2meow.preempt import CONTINUE_LATER
from v2meow.train import step
from v2meow.train.spikes import TrainingError

cluster = pytest.importorskip("v2meow.cluster")
ray = cluster.ray
pytestmark = pytest.mark.slow


def _recipe(changes: dict | None = None) -> Recipe:
    return tiny.recipe(CHANGES | TWO | (changes or {}))


@pytest.fixture(scope="module")
def machines():
    """A head that works for nobody, and two machines of one worker each."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patched:
        for name, value in QUICK.items():
            patched.setenv(name, value)
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        for _ in range(2):
            made.add_node(num_cpus=1)
        patched.setenv("RAY_ADDRESS", str(made.address))
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture(scope="module")
def undisturbed(machines, tmp_path_factory):
    """The metrics of a training in which nothing happened."""
    place = write_examples(tmp_path_factory.mktemp("undisturbed"), _recipe())
    step.run("coarse", _recipe(), place)
    return _metrics(place)


@pytest.fixture
def place(tmp_path):
    return write_examples(tmp_path, _recipe())


def _metrics(place: Path) -> dict:
    return json.loads((place / "models/coarse/metrics.json").read_text())


def _committed_step(place: Path) -> int:
    """The step of the newest checkpoint that Ray will go on from; 0 without one."""
    told = (place / "checkpoints/ray").glob("*/checkpoint_*/worker-00000.json")
    names = "".join(file.read_text() for file in (place / "checkpoints/ray").glob("*/checkpoint_manager_snapshot.json"))
    return max((json.loads(file.read_text())["step"] for file in told if file.parent.name in names), default=0)


def _wait(for_what: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not for_what():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.1)


def _workers() -> list[int]:
    """Processes of Ray Train that compute."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"RayTrainWorker" in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return sorted(found)


def _disturbed(place: Path, disturb: Callable[[], object], recipe: Recipe | None = None) -> None:
    """Train, and do `disturb` after the first checkpoint, in this thread: only it may start machines."""
    failed: list[BaseException] = []

    def train() -> None:
        try:
            step.run("coarse", recipe or _recipe(), place)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    try:
        _wait(lambda: _committed_step(place) > 0)
        disturb()
    finally:
        thread.join(240)
    assert not thread.is_alive(), "the training did not end"
    assert not failed, failed


def test_two_workers_learn_what_one_learns(undisturbed, place, monkeypatch):
    """There is no chance in it: what is left is the order of sums."""
    monkeypatch.delenv("RAY_ADDRESS")
    step.run("coarse", tiny.recipe(CHANGES), place)
    alone = _metrics(place)
    expected = pytest.approx([point["loss"] for point in alone["curve"]], rel=1e-4)
    assert len(undisturbed["curve"]) == 40 and [point["loss"] for point in undisturbed["curve"]] == expected
    assert undisturbed["holdout_loss"] == pytest.approx(alone["holdout_loss"], rel=1e-4)


def test_a_worker_and_a_machine_that_are_killed_are_replaced(undisturbed, place, machines, capfd):
    """Both in one training, one after the other: it ends with the very same curve and model."""

    def kill() -> None:
        os.kill(_workers()[0], signal.SIGKILL)
        before = _committed_step(place)
        _wait(lambda: _committed_step(place) > before)
        machines.remove_node(next(iter(machines.worker_nodes)), allow_graceful=False)
        machines.add_node(num_cpus=1)

    _disturbed(place, kill)
    assert _metrics(place) == undisturbed
    said = capfd.readouterr().err
    assert "worker 0 failed: " in said and "train coarse goes on after" in said
    assert list((place / "checkpoints/ray").iterdir()) == []  # the run is over


@pytest.mark.long
def test_fewer_workers_go_on_while_a_machine_is_missing(undisturbed, place, machines, capfd):
    """A training that waits for a machine which never comes back learns nothing; one alone learns the same."""

    def lose() -> None:
        here = ray.get_runtime_context().get_node_id()  # with it, what tells of the training would be lost
        lost = next(node for node in machines.worker_nodes if node.node_id != here)
        machines.remove_node(lost, allow_graceful=False)

    try:
        _disturbed(place, lose, _recipe({"train.min_workers": 1}))
    finally:
        machines.add_node(num_cpus=1)
    found = _metrics(place)
    expected = pytest.approx([point["loss"] for point in undisturbed["curve"]], rel=1e-4)
    assert [point["loss"] for point in found["curve"]] == expected
    assert found["holdout_loss"] == pytest.approx(undisturbed["holdout_loss"], rel=1e-4)
    assert json.loads((place / "reports/train_coarse.json").read_text())["workers"] == 1
    assert "train coarse goes on after" in capfd.readouterr().err


def _start(place: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "v2meow.cli", "train", "coarse", "--workspace", str(place)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.long)])
def test_a_driver_that_is_stopped_or_killed_goes_on_when_it_is_started_again(undisturbed, tmp_path, number):
    """Of a machine that is taken away, the process that started the training hears first, and has 30 s."""
    place = tmp_path / "ws"
    workspace.init(place, "nano")
    (place / "recipe.yaml").write_text(yaml.safe_dump(tiny.values(CHANGES | TWO)))
    write_examples(place, _recipe())
    driver = _start(place)
    try:
        _wait(lambda: _committed_step(place) > 0 or driver.poll() is not None)
        driver.send_signal(number)
        said = driver.communicate(timeout=30)[1]
    finally:
        driver.kill()
    if number == signal.SIGTERM:
        assert driver.returncode == CONTINUE_LATER, said
        last = said.splitlines()[-1]
        assert last == f"train coarse stopped after {_committed_step(place)} steps: start it again to go on"
    goes_on = f"train coarse goes on after {_committed_step(place)} steps"
    again = _start(place)
    said = again.communicate(timeout=240)[1]
    assert again.returncode == 0 and goes_on in said, said
    assert _metrics(place) == undisturbed
    assert shown_steps(place / "logs/coarse") == list(range(40))


def test_all_that_cannot_work_is_told_before_a_worker_starts(machines, place):
    """A wrong setting that shows after an hour in the queue costs the hour."""
    (place / "file").write_text("")
    with pytest.raises(TrainingError) as caught:
        step.run("coarse", _recipe({"train.cpus": 8.0, "train.storage": str(place / "storage")}), place)
    told = str(caught.value).splitlines()
    assert told[0] == "train coarse cannot start:"
    assert "2 with 8 CPU each, and the cluster has room for 0" in told[1]
    assert not _workers()
