"""One event loop with its engines, tiny models and videos for all tests of the service that need no Ray."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import tiny_bundle
from local_server import LocalServer, Loop, local_server

from serving.choice import resolve
from serving.editions import Edition
from serving.settings import Settings


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle.assembled(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the same shape, with other weights."""
    return tiny_bundle.assembled(tmp_path_factory.mktemp("other"), seed=1)


@pytest.fixture(scope="session")
def edition(tiny_model: Path) -> Edition:
    return resolve(str(tiny_model), None)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2.6 s: two windows of the semantic and coarse stages, three of the fine one."""
    return tiny_bundle.silent_video(tmp_path_factory.mktemp("videos") / "clip.mp4")


@pytest.fixture(scope="session")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 s: there is time to leave in the middle."""
    return tiny_bundle.silent_video(tmp_path_factory.mktemp("videos") / "long.mp4", 30.0)


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    loop = Loop(pieces=4)
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def server(loop: Loop, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """An open service of the tiny model; a file whose tests need another has one of its own by this name."""
    spool = tmp_path_factory.mktemp("spool")
    settings = Settings.model_validate({"models": [{"name": str(tiny_model)}], "spool": str(spool), "open": True})
    with local_server(loop, settings) as server:
        yield server


@pytest.fixture
def client(server: LocalServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture
def settings(tiny_model: Path, tmp_path: Path) -> Callable[..., Settings]:
    """Settings of an open service of the tiny model with a spool of its own; what is given stands over them."""

    def make(**values: object) -> Settings:
        given = {"models": [{"name": str(tiny_model)}], "spool": str(tmp_path / "spool"), "open": "keys" not in values}
        return Settings.model_validate(given | values)

    return make
