"""What tests share: the folder of real media, where there is one, and a process that reads it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does, before torch is imported

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
