"""A registry of its own for every test, processes that use it, and an object store that all tests share."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from buckets import object_store
from candidates import CHILD
from faults import Faults, faulty

from v2meow.registry import Registry
from v2meow.registry.place import CACHE_VARIABLE


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


@pytest.fixture
def children(registry: Registry) -> Iterator:
    """Start processes that run `code` on the same registry; those still alive at the end are killed."""
    started = []

    def start(code: str, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-c", CHILD + code, registry.location, *arguments]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate()


@pytest.fixture(scope="session")
def _store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with object_store(tmp_path_factory.mktemp("store")) as environment:
        yield environment


@pytest.fixture
def bucket(_store: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a registry of its own in a real object store, which all tests share."""
    for name, value in {**_store, CACHE_VARIABLE: str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    return f"s3://bucket/{uuid.uuid4().hex}/models"


@pytest.fixture
def faults(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    """The same store as it is reached over a bad network."""
    with faulty(os.environ["AWS_ENDPOINT_URL"]) as faults:
        monkeypatch.setenv("AWS_ENDPOINT_URL", faults.address)
        yield faults
