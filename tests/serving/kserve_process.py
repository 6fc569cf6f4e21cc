"""The KServe server as a process of its own, and requests to it as clients of the Open Inference Protocol send them."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from processes import figures, wait_for

_DTYPES = {"INT32": "<i4", "INT64": "<i8", "FP32": "<f4", "FP64": "<f8"}


class KServeProcess:
    """The server of `model`, ready. Ends by `end`, or at once by `kill`."""

    def __init__(self, folder: Path, model: Path, *options: str) -> None:
        self.log = folder / "kserve.log"
        self.http_port, self.grpc_port = free_ports()
        self.url = f"http://127.0.0.1:{self.http_port}"
        ports = ["--http-port", str(self.http_port), "--grpc-port", str(self.grpc_port)]
        command = [sys.executable, "-m", "serving.kserve_server", "--model", str(model), *ports, *options]
        with self.log.open("w") as log:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            wait_for(self.ready, 120.0)
        except BaseException:
            self.kill()
            raise

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/v2/health/ready", timeout=5.0).status_code == 200
        return False

    def infer(self, model: str, content: bytes, **headers: str) -> httpx.Response:
        """What the model answers to a body."""
        place = f"{self.url}/v2/models/{model}/infer"
        return httpx.post(place, content=content, headers={"Content-Type": "application/json"} | headers, timeout=60.0)

    def metrics(self) -> dict[str, float]:
        """Figures by name with labels."""
        return figures(httpx.get(f"{self.url}/metrics", timeout=10.0).text)

    def end(self) -> int:
        """SIGTERM, as a machine that stops; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60.0)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def tensor(name: str, datatype: str, *values: Any) -> dict[str, Any]:
    """A tensor [n] in JSON; bytes are written in base64."""
    if values and isinstance(values[0], bytes):
        values = tuple(base64.b64encode(value).decode() for value in values)
        return {
            "name": name,
            "datatype": datatype,
            "shape": [len(values)],
            "data": values,
            "parameters": {"content_type": "base64"},
        }
    return {"name": name, "datatype": datatype, "shape": [len(values)], "data": values}


def body(*tensors: dict[str, Any], **more: Any) -> bytes:
    """A request in JSON."""
    return json.dumps({"inputs": tensors, **more}).encode()


def outputs(answer: httpx.Response) -> dict[str, np.ndarray]:
    """The tensors of a response, in JSON or binary."""
    assert answer.status_code == 200, answer.text
    length = int(answer.headers.get("Inference-Header-Content-Length", len(answer.content)))
    said, rest, found = json.loads(answer.content[:length]), answer.content[length:], {}
    for one in said["outputs"]:
        kind, size = _DTYPES[one["datatype"]], one.get("parameters", {}).get("binary_data_size")
        array = np.array(one["data"], kind) if size is None else np.frombuffer(rest[:size], kind)
        found[one["name"]], rest = array.reshape(one["shape"]), rest[size or 0 :]
    return found


def free_ports() -> tuple[int, int]:
    """Two ports that nobody listens at."""
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]
