"""Where registered bundles lie, each under its hash: in a folder, or in S3 with a local folder of what was fetched.

A bundle appears whole or not at all, and every time it is handed out all of its files are hashed again. Knows nothing
of versions and stages.
"""

import fcntl
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from v2meow import bundle
from v2meow.files import atomic_folder, sha256
from v2meow.progress import progress
from v2meow.registry.s3 import Bucket, side_by_side


class Bundles(Protocol):
    """The bundles of one model, safe for many processes at once. What is asked for raises BundleError if unusable."""

    def publish(self, source: Path, digest: str) -> None:
        """Keep the bundle in `source`, whose hash is `digest`, replacing one that was damaged since."""
        ...

    def check(self, digest: str) -> None:
        """Return if the bundle can be handed out. In S3 its files are looked for, not read."""
        ...

    def folder(self, digest: str) -> Path:
        """A local folder with the bundle, every file of it hashed just now."""
        ...

    def read(self, digest: str, name: str) -> bytes:
        """One file of the bundle, checked by its hash."""
        ...


class FolderBundles:
    """Bundles as folders ROOT/DIGEST."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def publish(self, source: Path, digest: str) -> None:
        with _only_writer(self.root):
            if not self.intact(digest):
                bundle.copy(source, self.root / digest, digest)

    def check(self, digest: str) -> None:
        self.folder(digest)

    def folder(self, digest: str) -> Path:
        folder = self.root / digest
        found = bundle.verify(folder)
        if found != digest:
            raise bundle.BundleError(f"{folder} holds another bundle, {found}")
        return folder

    def read(self, digest: str, name: str) -> bytes:
        folder = self.root / digest
        manifest = folder / bundle.MANIFEST
        files = _files(manifest.read_bytes() if manifest.is_file() else None, digest, str(folder))
        if name not in files or not (folder / name).is_file() or sha256(folder / name) != files[name]:
            raise bundle.BundleError(f"{folder} has no sound {name}")
        return (folder / name).read_bytes()

    def intact(self, digest: str) -> bool:
        """Whether the bundle is here, whole; what killed writers left of it is removed."""
        for leftover in self.root.glob(f".{digest}.*"):  # of a killed writer
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            return bundle.verify(self.root / digest) == digest
        except bundle.BundleError:
            return False


class S3Bundles:
    """Bundles in a bucket: `MODEL/files/SHA256` for each file, shared by all bundles, and `MODEL/bundles/DIGEST.json`.

    That list of files is put last: until then there is no bundle. Local copies are kept in the folder `kept`.
    """

    def __init__(self, bucket: Bucket, model: str, kept: Path) -> None:
        self.bucket, self.model, self.kept = bucket, model, FolderBundles(kept)

    def publish(self, source: Path, digest: str) -> None:
        self.kept.publish(source, digest)  # a verified copy, which nobody edits while it is sent
        folder = self.kept.root / digest
        manifest = (folder / bundle.MANIFEST).read_bytes()
        wanted = {sha: folder / name for name, sha in _files(manifest, digest, str(folder)).items()}
        sizes = dict(zip(wanted, side_by_side(self._size, list(wanted)), strict=True))
        absent = [sha for sha, path in wanted.items() if sizes[sha] != path.stat().st_size]
        total = sum(wanted[sha].stat().st_size for sha in absent)
        with progress(f"publish {digest[:12]}", total, quiet=not absent) as sent:
            advance = _one_at_a_time(sent.advance)
            side_by_side(lambda sha: self.bucket.upload(wanted[sha], self._file(sha), advance), absent)
        self.bucket.put(self._manifest(digest), manifest)

    def check(self, digest: str) -> None:
        files = self._listed(digest)
        hashes = sorted(set(files.values()))
        for sha, size in zip(hashes, side_by_side(self._size, hashes), strict=True):
            if size is None:
                raise bundle.BundleError(f"{self.bucket.where(self._file(sha))} is missing")

    def folder(self, digest: str) -> Path:
        try:
            return self.kept.folder(digest)
        except bundle.BundleError:
            pass  # not fetched yet, or damaged since
        with _only_writer(self.kept.root):
            if not self.kept.intact(digest):
                self._fetch(digest)
        return self.kept.folder(digest)

    def read(self, digest: str, name: str) -> bytes:
        files = self._listed(digest)
        if name not in files:
            raise bundle.BundleError(f"{self.bucket.where(self._manifest(digest))} lists no {name}")
        with tempfile.TemporaryDirectory() as folder:
            self._fetch_file(files[name], Path(folder, "file"))
            return Path(folder, "file").read_bytes()

    def _fetch(self, digest: str) -> None:
        files = self._listed(digest)
        manifest = self.bucket.get(self._manifest(digest))
        assert manifest is not None
        total = sum(size or 0 for size in side_by_side(self._size, list(files.values())))
        with atomic_folder(self.kept.root / digest) as folder, progress(f"fetch {digest[:12]}", total) as fetched:
            (folder / bundle.MANIFEST).write_bytes(manifest)
            for name in files:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
            advance = _one_at_a_time(fetched.advance)
            side_by_side(lambda name: self._fetch_file(files[name], folder / name, advance), list(files))

    def _fetch_file(self, sha: str, path: Path, advance: Callable[[int], None] = lambda _: None) -> None:
        try:
            self.bucket.download(self._file(sha), path, advance)
        except FileNotFoundError as error:
            raise bundle.BundleError(f"{error} is missing") from None
        if sha256(path) != sha:
            where = self.bucket.where(self._file(sha))
            raise bundle.BundleError(f"{where} does not hold what its name says: delete it")

    def _listed(self, digest: str) -> dict[str, str]:
        return _files(self.bucket.get(self._manifest(digest)), digest, self.bucket.where(self._manifest(digest)))

    def _size(self, sha: str) -> int | None:
        return self.bucket.size(self._file(sha))

    def _file(self, sha: str) -> str:
        return f"{self.model}/files/{sha}"

    def _manifest(self, digest: str) -> str:
        return f"{self.model}/bundles/{digest}.json"


def _files(manifest: bytes | None, digest: str, where: str) -> dict[str, str]:
    """SHA-256 of each file that the manifest of the bundle `digest` lists, by name."""
    if manifest is None:
        raise bundle.BundleError(f"{where} is missing")
    found, files = bundle.listed(manifest)
    if found != digest:
        raise bundle.BundleError(f"{where} lists another bundle, {found}")
    return files


def _one_at_a_time(advance: Callable[[int], None]) -> Callable[[int], None]:
    """For threads that count the same progress."""
    lock = threading.Lock()

    def counted(units: int) -> None:
        with lock:
            advance(units)

    return counted


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Hold the lock on a folder of bundles; the kernel frees it when its holder dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
