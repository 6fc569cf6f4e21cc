"""Where a registry is kept: a folder, or an address s3://BUCKET/PREFIX with a local folder of what was fetched from it.

ROOT/MODEL/log/00000042.json     one event
ROOT/MODEL/attached/SHA256       what events name by its hash: reports, and tables of the videos behind a version
ROOT/MODEL/bundles/DIGEST/       the bundle; in S3 a list of files DIGEST.json, and ROOT/MODEL/files/SHA256
"""

import hashlib
import os
from pathlib import Path
from typing import Protocol

from v2meow.registry.bundles import Bundles, FolderBundles, S3Bundles
from v2meow.registry.s3 import Bucket, S3Store
from v2meow.registry.store import CachedStore, FolderStore, Store

CACHE_VARIABLE = "V2MEOW_REGISTRY_CACHE"  # where things fetched from S3 are kept; else ~/.cache/v2meow/registry


class Place(Protocol):
    """Where the parts of a registry's models are."""

    def models(self) -> list[str]:
        """Names that have a log, sorted."""
        ...

    def log(self, model: str) -> Store: ...

    def attached(self, model: str) -> Store: ...

    def bundles(self, model: str) -> Bundles: ...


class FolderPlace:
    """A registry in a local folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def models(self) -> list[str]:
        if not self.root.is_dir():
            return []
        return sorted(path.name for path in self.root.iterdir() if self.log(path.name).names())

    def log(self, model: str) -> FolderStore:
        return FolderStore(self.root / model / "log")

    def attached(self, model: str) -> FolderStore:
        return FolderStore(self.root / model / "attached")

    def bundles(self, model: str) -> FolderBundles:
        return FolderBundles(self.root / model / "bundles")


class S3Place:
    """A registry in a bucket. `cache` is a local folder for this registry alone."""

    def __init__(self, location: str, cache: Path) -> None:
        self.bucket, self.cache = Bucket(location), cache

    def models(self) -> list[str]:
        return [folder for folder in self.bucket.folders() if S3Store(self.bucket, f"{folder}/log").names()]

    def log(self, model: str) -> Store:
        return self._cached(model, "log")

    def attached(self, model: str) -> Store:
        return self._cached(model, "attached")

    def bundles(self, model: str) -> S3Bundles:
        return S3Bundles(self.bucket, model, self.cache / model / "bundles")

    def _cached(self, model: str, part: str) -> CachedStore:
        return CachedStore(S3Store(self.bucket, f"{model}/{part}"), self.cache / model / part)


def cache_of(location: str) -> Path:
    """The local folder of what was fetched from the registry at that address."""
    named = os.environ.get(CACHE_VARIABLE)
    root = Path(named).expanduser() if named else Path.home() / ".cache" / "v2meow" / "registry"
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "aws"
    return root / hashlib.sha256(f"{endpoint} {location}".encode()).hexdigest()[:16]
