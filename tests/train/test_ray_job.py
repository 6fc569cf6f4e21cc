"""A training as a job of a cluster far away: a real head with its job server, and the command that watches it."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import Request, urlopen

import pytest
import tiny
import yaml
from catalogues import write_examples
from processes import wait_for

from v2meow import workspace

cluster = pytest.importorskip("v2meow.cluster")

STEPS = 1000
CHANGES = {
    "stages.coarse.steps": STEPS,
    "stages.coarse.max_epochs": 10_000,
    "stages.coarse.batch": 8,
    "stages.coarse.checkpoint_steps": 50,
    "train.cpus": 1.0,
}
COMMAND = "from v2meow.cli import main; main()"


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """The address of a cluster's job server, which asks for a token; the variables of that are set here, too."""
    port, *others = _free_ports(4)
    names = ("port", "dashboard-agent-listen-port", "ray-client-server-port")
    with pytest.MonkeyPatch.context() as patched, TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        token = Path(folder) / "token"
        token.write_text("0123456789abcdef" * 4)
        for name, value in (("MODE", "token"), ("TOKEN_PATH", str(token))):
            patched.setenv(f"RAY_AUTH_{name}", value)
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        options = ("--num-cpus=2", "--include-dashboard=true", f"--dashboard-port={port}", f"--temp-dir={folder}/ray")
        ports = (f"--{name}={number}" for name, number in zip(names, others, strict=True))
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *options, *ports]
        with (Path(folder) / "said").open("w+") as said:
            node = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, start_new_session=True)
            try:
                wait_for(lambda: _answers(port) or node.poll() is not None, 90)
                assert node.poll() is None, Path(said.name).read_text()
                yield f"http://127.0.0.1:{port}"
            finally:
                _end(node)  # asked to end, it would wait half a minute for what still runs


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [taken.getsockname()[1] for taken in sockets]
    for taken in sockets:
        taken.close()
    return ports


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _end(leader: subprocess.Popen) -> None:
    try:
        os.killpg(leader.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    leader.wait()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A workspace with examples, and a name that a shell would take for several words."""
    return _workspace(tmp_path_factory.mktemp("job") / "a shop; with 'quotes'", examples=True)


def _workspace(folder: Path, *, examples: bool) -> Path:
    recipe = folder.with_name("recipe.yaml")
    recipe.write_text(yaml.safe_dump(tiny.values(CHANGES)))
    workspace.init(folder, str(recipe))
    return write_examples(folder, tiny.recipe(CHANGES)) if examples else folder


def _command(address: str, folder: Path, *more: str) -> list[str]:
    arguments = ("train", "coarse", "--cluster", address, "--workspace", str(folder), *more)
    return [sys.executable, "-c", COMMAND, *arguments]


def _ran(address: str, folder: Path, *more: str, **environment: str) -> subprocess.CompletedProcess:
    options = {"capture_output": True, "text": True, "timeout": 180, "env": os.environ | environment}
    return subprocess.run(_command(address, folder, *more), check=False, **options)


def _started(address: str, folder: Path) -> subprocess.Popen:
    return subprocess.Popen(_command(address, folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _jobs(address: str) -> dict[str, str]:
    """The status of every job; by hand, because Ray reads how to show a token once, when it is imported."""
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text()
    with urlopen(Request(f"{address}/api/jobs/", headers={"Authorization": f"Bearer {token}"})) as answer:
        told = {job["submission_id"]: job["status"] for job in json.load(answer) if job["submission_id"]}
    return dict(sorted(told.items()))


def _checkpoints(folder: Path) -> list[Path]:
    return list((folder / "checkpoints/ray").glob("*/checkpoint_*"))


@pytest.mark.long
def test_a_job_goes_on_without_its_watcher_and_is_found_again(head, place):
    """Two ask for one training at once; Ctrl-C ends one's look at it, and the other sees its end."""
    first, second = _started(head, place), _started(head, place)
    try:
        wait_for(lambda: bool(_checkpoints(place)) or first.poll() is not None, 180)
        first.send_signal(signal.SIGINT)
        _, said = first.communicate(timeout=60)
        [(job, status)] = _jobs(head).items()
        assert first.returncode == 130, said
        assert f"goes on as job {job}: the same command watches it again, and with --stop ends it" in said
        assert status == "RUNNING"
        log, bar = second.communicate(timeout=180)
        assert second.returncode == 0, log
    finally:
        first.kill()
        second.kill()
    metrics = json.loads((place / "models/coarse/metrics.json").read_text())
    assert len(metrics["curve"]) == STEPS and f"holdout_loss: {metrics['holdout_loss']:.4g}\n" in log
    assert "coarse" in bar and not list((place / "checkpoints").glob("job-*"))

    again = _ran(head, place, RAY_ADDRESS="nowhere:1")  # what was said counts, not the environment
    assert again.returncode == 0 and again.stdout == log
    assert list(_jobs(head).values()) == ["SUCCEEDED"]


@pytest.mark.long
def test_a_stopped_job_goes_on_as_another(head, tmp_path):
    place = _workspace(tmp_path / "shop", examples=True)
    watcher = _started(head, place)
    try:
        wait_for(lambda: bool(_checkpoints(place)) or watcher.poll() is not None, 180)
        stopped = _ran(head, place, "--stop")
        assert stopped.returncode == 0 and stopped.stdout.startswith("stopped: v2meow-coarse-"), stopped
        _, said = watcher.communicate(timeout=60)
        assert watcher.returncode == 75 and "was stopped: the same command goes on" in said
    finally:
        watcher.kill()
    done = _ran(head, place)
    assert done.returncode == 0, done
    assert "train coarse goes on after" in done.stdout, done.stdout
    assert len(json.loads((place / "models/coarse/metrics.json").read_text())["curve"]) == STEPS
    assert list(_jobs(head).values())[-2:] == ["STOPPED", "SUCCEEDED"]


@pytest.mark.slow
def test_what_goes_wrong_on_a_cluster_is_one_line_here(head, tmp_path):
    bare = _workspace(tmp_path / "bare", examples=False)
    failed = _ran(head, bare)
    assert failed.returncode == 1
    *_, last = failed.stderr.splitlines()
    own = [line for line in failed.stdout.splitlines() if line.startswith("error: ")]
    assert last.startswith("error: job v2meow-coarse-") and own[-1].removeprefix("error: ") in last
    foreign = _ran(head, bare, RAY_AUTH_TOKEN="f" * 64)
    assert foreign.returncode == 1 and foreign.stderr.count("\n") == 1
    assert "does not accept this machine's token: set RAY_AUTH_MODE=token" in foreign.stderr


def test_an_address_where_nobody_answers_is_one_line(tmp_path):
    bare = _workspace(tmp_path / "bare", examples=False)
    [port] = _free_ports(1)
    done = _ran(f"http://127.0.0.1:{port}", bare)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done
    assert done.stderr.startswith(f"error: no job server answers at http://127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("path", "told"), [("/api/version", r"Ray is 2\.99\.0 at .* install the same"), ("/", "is no job server of Ray")]
)
def test_another_version_and_another_server_are_refused(path, told):
    """A cluster of another version takes a job, and the training in it dies of something else much later."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == path else 404)
            self.end_headers()
            self.wfile.write(b'{"version": "4", "ray_version": "2.99.0"}')

        def log_message(self, format: str, *args):  # noqa: A002
            """Nothing: tests are quiet."""

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(cluster.ClusterError, match=told):
            cluster.job_server(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
