"""`v2meow up`: Prefect's server, a worker and the deployments of a workspace, until somebody ends it.

A child that dies is started again; children die with this process, however it ends.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx

HOME = Path(".dvc/tmp/prefect")  # in the workspace: the database, and what the server writes
_LOOPBACK = "127.0.0.1"
_START_S, _STOP_S, _LOOK_S = 120.0, 40.0, 1.0
# Few runs of a schedule are made beforehand, where Prefect makes a hundred: all are late at once when a clock is set
# forward or a machine slept, and SQLite hangs for minutes while they are cancelled.
_SCHEDULER = {
    "PREFECT_SERVER_SERVICES_SCHEDULER_MAX_RUNS": "8",
    "PREFECT_SERVER_SERVICES_SCHEDULER_MIN_RUNS": "2",
    "PREFECT_SERVER_SERVICES_SCHEDULER_MIN_SCHEDULED_TIME": "PT120S",
}
_SET_BACK_S = 60.0  # by less a clock is corrected now and then
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


class UpError(RuntimeError):
    """Something that did not start; the message says where it tells why."""


def environment(workspace: Path, port: int, database: str = "") -> dict[str, str]:
    """What Prefect's processes need; with it nothing is reported to anybody."""
    home = workspace.resolve() / HOME
    given = {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://{_LOOPBACK}:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "DO_NOT_TRACK": "1",
        **_SCHEDULER,
    }
    if database:
        given["PREFECT_API_DATABASE_CONNECTION_URL"] = database
    return {**os.environ, **given}


class Up:
    """The server and the worker, as children. Ends by `end`."""

    def __init__(self, workspace: Path, port: int, database: str = "", webhook: str = "", gpus: int = 1) -> None:
        self.workspace, self.port = workspace.resolve(), port
        self.logs = self.workspace / HOME / "logs"
        self.environment = environment(workspace, port, database)
        self._webhook, self._gpus = webhook, gpus
        self.children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> list[str]:
        """Start all; the deployments' names. UpError when something does not come up."""
        self.logs.mkdir(parents=True, exist_ok=True)
        self._start_server()
        self._wait("server", self._healthy)
        names = self._deploy()
        self._start_worker()
        return names

    def keep(self, ended: threading.Event) -> None:
        """Start again what dies, until `ended`; and tell the schedules anew where the clock was set back."""
        clock = Clock()
        while not ended.wait(_LOOK_S):
            if self.children["server"].poll() is not None:
                self._start_server()
            if self.children["worker"].poll() is not None and self._healthy():
                self._start_worker()
            if clock.was_set_back():
                with suppress(UpError):  # it is tried again at the next look
                    self._after_set_back()
                    clock = Clock()

    def end(self) -> None:
        """Stop the worker, which stops its runs, then the server."""
        for name in ("worker", "server"):
            self._stop(name)

    def _stop(self, name: str) -> None:
        child = self.children.get(name)
        if child is None:
            return
        with suppress(ProcessLookupError):
            child.send_signal(signal.SIGTERM)
        try:
            child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def _start_server(self) -> None:
        self._spawn("server", "server", "start", "--host", _LOOPBACK, "--port", str(self.port))

    def _start_worker(self) -> None:
        self._spawn("worker", "worker", "start", "--pool", "v2meow", "--type", "process", "--name", "v2meow up")

    def _spawn(self, name: str, *arguments: str) -> None:
        with (self.logs / f"{name}.log").open("ab") as log:
            self.children[name] = subprocess.Popen(
                [sys.executable, "-m", "prefect", *arguments],
                env=self.environment,
                cwd=self.workspace,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with(os.getpid()),
                start_new_session=True,  # Ctrl-C is for us: we end them in order
            )

    def _after_set_back(self) -> None:
        """Else nothing would run until the hour that the clock had reached: the server's own services wait for it, too.

        Runs that are under way outlive the server.
        """
        self._stop("server")
        self._start_server()
        self._wait("server", self._healthy)
        self._deploy()
        self._in_child("from flows.asking import catch_up; catch_up()")

    def _deploy(self) -> list[str]:
        script = "import sys; from pathlib import Path; from flows.deployments import deploy; "
        script += "print('\\n'.join(deploy(Path(sys.argv[1]), gpus=int(sys.argv[2]), webhook=sys.argv[3])))"
        told = self._in_child(script, str(self.workspace), str(self._gpus), self._webhook)
        return told.split("\n")[-5:-1] if told else []

    def _in_child(self, script: str, *arguments: str) -> str:
        """What a script prints: Prefect reads its settings when it is imported. UpError with its last words."""
        command = [sys.executable, "-c", script, *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise UpError(f"the flows could not be deployed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        return done.stdout

    def _healthy(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"http://{_LOOPBACK}:{self.port}/api/health", timeout=2.0).status_code == 200
        return False

    def _wait(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _START_S
        while not ready():
            if self.children[name].poll() is not None or time.monotonic() > deadline:
                raise UpError(f"Prefect's {name} did not start: see {self.logs / f'{name}.log'}")
            time.sleep(0.2)


class Clock:
    """The wall clock beside one that nobody sets."""

    def __init__(self) -> None:
        self._ahead = time.time() - time.monotonic()

    def was_set_back(self) -> bool:
        """Whether it is more than a minute behind where it would be by now."""
        ahead = time.time() - time.monotonic()
        self._ahead = max(self._ahead, ahead)
        return ahead < self._ahead - _SET_BACK_S


def run(workspace: Path, port: int, database: str = "", webhook: str = "", gpus: int = 1) -> None:
    """Be up until SIGINT or SIGTERM."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    up = Up(workspace, port, database, webhook, gpus)
    print("starting Prefect's server, worker and deployments …", flush=True)
    try:
        names = up.start()
        print(f"page      http://{_LOOPBACK}:{port}\nlogs      {up.logs}\nflows     {', '.join(names)}")
        print("Ctrl-C ends it.", flush=True)
        up.keep(ended)
    finally:
        print("ending: a step under way saves what it has learnt", flush=True)
        up.end()


def die_with(parent: int) -> Callable[[], None]:
    """For a new child: the kernel ends it when the thread that started it does, SIGKILL included."""
    libc = ctypes.CDLL(None)

    def prepare() -> None:
        libc.prctl(_DIE_WITH_PARENT, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return prepare
