"""A training over two hosts, each a network namespace with a Ray node, whose link is cut and comes back."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import tiny
from catalogues import CHANGES, QUICK, TWO, write_examples
from processes import wait_for

from v2meow.train import step

pytest.importorskip("ray")
pytestmark = pytest.mark.long

CUT_S = 15.0
HOSTS = {"v2meow-a": "10.213.7.1", "v2meow-b": "10.213.7.2"}
FIRST, SECOND = HOSTS
ENVIRONMENT = {
    **QUICK,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # the namespaces are nobody else's
}
DRIVER = """
import json
import sys
from pathlib import Path
from v2meow.config import parse_recipe
from v2meow.train import step
step.run("coarse", parse_recipe(json.loads(sys.argv[1])), Path(sys.argv[2]))
"""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def hosts() -> Iterator[None]:
    """Two namespaces that a cable joins."""
    try:
        _ip("netns", "add", FIRST)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces are not permitted here: {getattr(error, 'stderr', None) or error}")
    try:
        _ip("netns", "add", SECOND)
        _ip("link", "add", "cable", "netns", FIRST, "type", "veth", "peer", "name", "cable", "netns", SECOND)
        for host, address in HOSTS.items():
            _ip("-n", host, "address", "add", f"{address}/24", "dev", "cable")
            _ip("-n", host, "link", "set", "lo", "up")
            _ip("-n", host, "link", "set", "cable", "up")
        yield
    finally:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "delete", host], capture_output=True, check=False)


def _start(host: str, *command: str, **options) -> subprocess.Popen:
    cluster = {"RAY_ADDRESS": f"{HOSTS[FIRST]}:6379", "GLOO_SOCKET_IFNAME": "cable"}  # no name leads to the hosts
    environment = os.environ | ENVIRONMENT | cluster | {"OMP_NUM_THREADS": "1"}
    inside = ["ip", "netns", "exec", host, sys.executable, *command]
    return subprocess.Popen(inside, env=environment, start_new_session=True, **options)


@contextmanager
def _node(host: str, *options: str) -> Iterator[None]:
    """A Ray node, which is ready inside the block."""
    command = ("-m", "ray.scripts.scripts", "start", "--block", f"--node-ip-address={HOSTS[host]}", "--num-cpus=1")
    node = _start(host, *command, *options, "--object-store-memory=100000000", stdout=subprocess.PIPE, text=True)
    try:
        assert node.stdout is not None
        said = []
        for line in node.stdout:
            said.append(line)
            if "Ray runtime started." in line:
                break
        else:
            pytest.fail("".join(said))
        yield
    finally:
        _end(node)


def _end(leader: subprocess.Popen) -> None:
    try:
        os.killpg(leader.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    leader.wait()


def _committed(place: Path) -> bool:
    """Whether there is a checkpoint that Ray will go on from."""
    storage = place / "checkpoints/ray"
    names = "".join(file.read_text() for file in storage.glob("*/checkpoint_manager_snapshot.json"))
    return any(file.parent.name in names for file in storage.glob("*/checkpoint_*/worker-00000.json"))


def _curve(place: Path) -> list[float]:
    return [point["loss"] for point in json.loads((place / "models/coarse/metrics.json").read_text())["curve"]]


def test_a_training_outlives_a_link_that_is_cut(hosts, tmp_path):
    """Nobody closes connections: the workers wait for each other over a cable that carries nothing.

    The machine beyond it is given up meanwhile, and starts its node anew when it is back.
    """
    recipe = tiny.recipe(CHANGES)
    alone, place = (write_examples(tmp_path / name, recipe) for name in ("alone", "together"))
    joining = f"--address={HOSTS[FIRST]}:6379"
    with ExitStack() as stack, ExitStack() as second:
        folder = stack.enter_context(
            TemporaryDirectory(ignore_cleanup_errors=True)
        )  # its path is short: of sockets, too
        stack.enter_context(_node(FIRST, "--head", "--port=6379", f"--temp-dir={folder}", "--include-dashboard=false"))
        second.enter_context(_node(SECOND, joining))
        driver = _start(FIRST, "-c", DRIVER, json.dumps(tiny.values(CHANGES | TWO)), str(place), stderr=subprocess.PIPE)
        stack.callback(_end, driver)
        wait_for(lambda: _committed(place) or driver.poll() is not None, 180)
        _ip("-n", FIRST, "link", "set", "cable", "down")
        cut = time.monotonic()
        step.run("coarse", recipe, alone)
        time.sleep(max(0.0, CUT_S - (time.monotonic() - cut)))
        assert driver.poll() is None
        _ip("-n", FIRST, "link", "set", "cable", "up")
        second.close()
        second.enter_context(_node(SECOND, joining))
        said = driver.communicate(timeout=240)[1].decode()
    assert driver.returncode == 0, said
    assert "worker" in said and "goes on after" in said
    assert _curve(place) == pytest.approx(_curve(alone), rel=1e-4)
