"""What tests share: the folder of real media, where there is one, a process that reads it, and a fresh workspace."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does, before torch is imported
# Models of tests are too small to share out: threads that wait for one another cost several times what they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from v2meow import workspace
from v2meow.config import MediaConfig
from v2meow.media import Reader


@pytest.fixture(scope="session")
def media_folder() -> Path:
    """Real and hostile media: $V2MEOW_TEST_MEDIA, else ../shared/media beside the repository."""
    beside = Path(__file__).parents[2] / "shared" / "media"
    folder = Path(os.environ.get("V2MEOW_TEST_MEDIA", beside))
    if not (folder / "MANIFEST.csv").is_file():
        pytest.skip(f"no test media in {folder}: set V2MEOW_TEST_MEDIA")
    return folder


@pytest.fixture(scope="session")
def limits() -> MediaConfig:
    """The limits of the built-in recipes, with less patience."""
    return MediaConfig(timeout_s=30.0, memory_mib=1536, max_pixels=40_000_000, max_seconds=7200.0)


@pytest.fixture(scope="session")
def reader(limits: MediaConfig) -> Iterator[Reader]:
    with Reader(limits) as reader:
        yield reader


@pytest.fixture(scope="session")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh workspace of recipe nano, for tests that only read it: git and DVC take seconds to begin one."""
    place = tmp_path_factory.mktemp("untouched") / "ws"
    workspace.init(place, "nano")
    return place


@pytest.fixture
def fresh(untouched: Path, tmp_path: Path) -> Path:
    """A copy of it at tmp_path / "ws", for one test to change."""
    return shutil.copytree(untouched, tmp_path / "ws", symlinks=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: shared out among processes, none is left with them alone at the end. And leave out
    what takes minutes, unless it is asked for."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    if "V2MEOW_TEST_LONG" in os.environ:
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: set V2MEOW_TEST_LONG=1"))
