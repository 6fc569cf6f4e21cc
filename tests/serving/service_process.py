"""`v2meow serve` as a process of its own: started, asked over HTTP, robbed of its parts, ended."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import yaml
from processes import alive, figures, wait_for

_MODULE = "from v2meow.cli import main; main()"
_START_S = 180.0
_LOOPBACK = "127.0.0.1"


class ServiceProcess:
    """The command with `settings`, at a free port; all it prints is in `log`. Ends by `end`, or at once by `kill`."""

    def __init__(self, folder: Path, settings: dict) -> None:
        config, self.log = folder / "settings.yaml", folder / "serve.log"
        config.write_text(yaml.safe_dump(settings))
        self.port = _free_port()
        self.url = f"http://{_LOOPBACK}:{self.port}"
        command = [sys.executable, "-c", _MODULE, "serve", "--config", str(config), "--port", str(self.port)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            wait_for(self._up, _START_S)
        except BaseException:
            self.kill()
            raise

    def _up(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return "Ctrl-C ends it" in self.log.read_text()

    def replicas(self, deployment: str) -> list[int]:
        """Process ids of a deployment's replicas."""
        return self._titled(f"ray::ServeReplica:v2meow:{deployment}")

    def actors(self, name: str) -> list[int]:
        """Process ids of Serve's own actors: ServeController, ProxyActor."""
        return self._titled(f"ray::{name}")

    def _titled(self, title: str) -> list[int]:
        return [pid for pid in self.family() if _title(pid).startswith(title)]

    def family(self) -> set[int]:
        """Ids of all processes that descend from the command, itself included."""
        parents = {int(path.name): _parent(path) for path in Path("/proc").iterdir() if path.name.isdigit()}
        found = {self.process.pid}
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return {pid for pid in found if alive(pid)}

    def ready(self) -> bool:
        """Whether the service says so."""
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/readyz", timeout=5.0).status_code == 200
        return False

    def metrics(self) -> dict[str, float]:
        """Figures of the service, by name with labels."""
        return figures(httpx.get(f"{self.url}/metrics", timeout=10.0).text)

    def end(self) -> int:
        """SIGTERM, as a machine that stops; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30.0)

    def kill(self) -> None:
        """End everything at once, whatever state it is in."""
        for pid in self.family():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(30.0)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        return probe.getsockname()[1]


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
