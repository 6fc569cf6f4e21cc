"""The service in this process, without Ray: many servers on one event loop in a thread, over the same parts."""

import asyncio
import json
import socket
import threading
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import uvicorn
from processes import wait_for

from serving.api import make_app
from serving.keys import Doorkeeper
from serving.local import LocalParts
from serving.service import Service
from serving.settings import Settings

Result = TypeVar("Result")
_PATIENCE_S = 60.0


class Counts:
    """`Meters` that count what happened."""

    def __init__(self) -> None:
        self.happened: Counter[str] = Counter()

    def first_audio(self, seconds: float, model: str) -> None:
        self.happened["first audio"] += 1

    def finished(self, seconds: float, music: float, model: str) -> None:
        self.happened["finished"] += 1

    def failed(self, kind: str, model: str) -> None:
        self.happened[kind] += 1

    def pieces(self, at_work: int, waiting: int) -> None:
        self.happened["looked"] += 1

    async def text(self) -> str:
        return "".join(f'v2meow_happened{{what="{what}"}} {count}\n' for what, count in self.happened.items())


class Loop:
    """An event loop in a thread of its own, and the parts of the cascade that live on it."""

    def __init__(self, pieces: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.parts = LocalParts(pieces, room=4)

    def run(self, work: Coroutine[Any, Any, Result], patience: float = _PATIENCE_S) -> Result:
        """The result of a coroutine there."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(patience)

    def idle(self) -> bool:
        """Whether no engine holds or awaits anything."""
        loads = [load for stage in self.parts.stages.values() for load in stage.loads]
        return not any(load.rows or load.waiting for load in loads)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


class LocalServer:
    """A service with its HTTP server at `url`."""

    def __init__(self, loop: Loop, settings: Settings, parts: LocalParts | None = None) -> None:
        self._loop, self._settings, self._parts = loop, settings, parts or loop.parts
        self.counts = Counts()
        loop.run(self._start())

    async def _start(self) -> None:
        settings = self._settings
        self.service = Service(settings, self._parts, self.counts)
        await self.service.start(settings.models)
        self.doorkeeper = Doorkeeper(Path(settings.keys) if settings.keys else None)
        app = make_app(self.service, self.doorkeeper, self.counts.text)
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=1))
        self._serving = asyncio.ensure_future(self._server._serve())  # without its handlers of signals
        while not self._server.started:
            await asyncio.sleep(0.005)
        self.port: int = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def shrink_buffers(self) -> None:
        """From now on a client that does not read is felt soon."""
        for one in self._server.servers[0].sockets:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    def stop(self) -> None:
        """End it in good order."""
        self._loop.run(self._end())

    async def _end(self) -> None:
        self._server.should_exit = True
        await self._serving  # and with it the service

    def free(self) -> bool:
        """Whether nothing is at work, waits, or holds a row."""
        gate = self.service.gate
        return gate.inside == 0 and gate.queued == 0 and self._loop.idle()

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=_PATIENCE_S, **options)


@contextmanager
def local_server(loop: Loop, settings: Settings, parts: LocalParts | None = None) -> Iterator[LocalServer]:
    server = LocalServer(loop, settings, parts)
    try:
        yield server
    finally:
        server.stop()


def ask(client: httpx.Client, video: Path, headers: dict[str, str] | None = None, **fields: object) -> httpx.Response:
    """POST a video and fields."""
    data = {name: str(value) for name, value in fields.items()}
    return client.post("/v1/generations", files={"video": video.read_bytes()}, data=data, headers=headers)


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.text.splitlines()]


def finished(client: httpx.Client, name: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """A generation's record once it has ended."""
    found: dict[str, Any] = {}

    def ended() -> bool:
        found.update(client.get(f"/v1/generations/{name}", headers=headers).raise_for_status().json())
        return found["status"] in ("succeeded", "failed", "cancelled")

    wait_for(ended, _PATIENCE_S)
    return found


def problem(answer: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    """The problem of an answer, which must be that one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["type"] == f"urn:v2meow:problem:{kind}", body
    assert body["status"] == status and body["title"] and body["detail"] and "\n" not in body["detail"]
    return body
