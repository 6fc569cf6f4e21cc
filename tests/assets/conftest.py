"""A store of its own for every test, a web server in the place of the hub, and no waiting between attempts."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sites import Site, served

from v2meow import assets
from v2meow.assets import fetch
from v2meow.assets.catalogue import to_asset


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "store"
    monkeypatch.setenv(assets.FOLDER_VARIABLE, str(folder))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in (assets.MIRROR_VARIABLE, "HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fetch, "_DELAYS_S", (0.0, 0.0))
    return folder


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with served() as site:
        monkeypatch.setenv("HF_ENDPOINT", site.address)
        yield site


@pytest.fixture
def declare(tmp_path: Path) -> Callable[..., assets.Asset]:
    """An asset `tiny` with these files ({name: facts}), and whatever else is declared of it."""

    def build(files: dict[str, Any], **values: Any) -> assets.Asset:
        plain = {"about": "a test", "licence": "MIT", "commercial": True, "files": files, **values}
        return to_asset("tiny", plain, tmp_path, "test")

    return build
