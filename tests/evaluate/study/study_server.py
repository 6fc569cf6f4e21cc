"""The server of a study on a thread of this process, which can be stopped and started again at the same port."""

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from processes import wait_for
from starlette.types import ASGIApp

from v2meow.evaluate.study.ballots import Ballots, Rating, sqlite_url
from v2meow.evaluate.study.design import Study, read_study
from v2meow.evaluate.study.server import make_app


class Running:
    """A study that is served; `around` is put around the application."""

    def __init__(
        self,
        folder: Path,
        database: Path,
        invited: Collection[str] | None = None,
        around: Callable[[ASGIApp], ASGIApp] = lambda app: app,
    ) -> None:
        self.study: Study = read_study(folder)
        self._ballots = Ballots(sqlite_url(database), self.study.id, self.study.max_raters)
        self._app, self._port = around(make_app(self.study, folder, self._ballots, invited)), 0
        self.start()

    def start(self) -> None:
        config = uvicorn.Config(self._app, port=self._port, log_config=None, timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_for(lambda: self._server.started)
        self._port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    def close(self) -> None:
        self.stop()
        self._ballots.close()

    def ratings(self) -> list[Rating]:
        """What is stored."""
        return self._ballots.all()

    def client(self, token: str | None = "rater-one") -> httpx.Client:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30)


@contextmanager
def running(folder: Path, database: Path, **options: Any) -> Iterator[Running]:
    server = Running(folder, database, **options)
    try:
        yield server
    finally:
        server.close()


def ballot(pair: str, **values: Any) -> dict[str, Any]:
    """A rating as the page sends it."""
    given = {"pair": pair, "question": "fit", "choice": 1, "key": "k" * 16, "heard_left_s": 1.5, "heard_right_s": 2.0}
    return given | values
