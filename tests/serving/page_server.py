"""The service with its page in this process, without Ray: the shipped model behind a real HTTP server."""

import asyncio
import threading
from collections import Counter
from pathlib import Path

import uvicorn

from serving.api import make_app
from serving.keys import Doorkeeper
from serving.local import LocalParts
from serving.service import Service
from serving.settings import Settings

_START_S = 120.0


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


class PageServer:
    """Serves at `url` from the beginning of the `with` block to its end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    async def _serve(self) -> None:
        try:
            counts = Counts()
            self.service = Service(self._settings, LocalParts(pieces=4), counts)
            await self.service.start(self._settings.models)
            keys = Path(self._settings.keys) if self._settings.keys else None
            app = make_app(self.service, Doorkeeper(keys), counts.text)
            self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
            serving = asyncio.ensure_future(self._server.serve())
            while not self._server.started:
                await asyncio.sleep(0.01)
            self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"
            self._up.set()
            await serving
            await self.service.stop()
        finally:
            self._up.set()

    def __enter__(self) -> "PageServer":
        self._thread.start()
        assert self._up.wait(_START_S) and hasattr(self, "url"), "the service did not start: see above"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=20)
        assert not self._thread.is_alive(), "the server did not end"
