"""Where a log's files live: contents under names in one place, each put once and whole.

Knows nothing of events. `names`, `get_all` and `put_if_absent` are all that a log asks of its storage; whoever takes a
name first has it, and that is the only lock there is.
"""

import hashlib
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class StoreError(OSError):
    """Storage that cannot be reached, or refuses; the message is one line that says what to do."""


class Store(Protocol):
    """Contents under names, safe for many processes at once."""

    def where(self, name: str) -> str:
        """What people call the place of `name`: a path or an address."""
        ...

    def names(self, after: str = "") -> list[str]:
        """Names of what is stored, in any order; only those that sort after `after`."""
        ...

    def get_all(self, names: Sequence[str]) -> list[bytes]:
        """The contents under `names`, in their order; FileNotFoundError with the name that has none."""
        ...

    def put_if_absent(self, name: str, content: bytes) -> bool:
        """Store `content` durably; False, and nothing stored, when the name is taken by other content."""
        ...


class FolderStore:
    """Contents under names in a local folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def where(self, name: str) -> str:
        return str(self.folder / name)

    def names(self, after: str = "") -> list[str]:
        """As `Store` says. Hidden files are what killed writers left, and do not count."""
        try:
            names = (entry.name for entry in os.scandir(self.folder))
            return [name for name in names if not name.startswith(".") and name > after]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def get_all(self, names: Sequence[str]) -> list[bytes]:
        return [_read(self.folder, name) for name in names]

    def put_if_absent(self, name: str, content: bytes) -> bool:
        """As `Store` says. Raises OSError naming the file when the disk is full or the folder is not writable."""
        path, temporary = self.folder / name, self.folder / f".{name}.{uuid.uuid4().hex}"
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            return _take_name(temporary, path)
        except OSError as error:
            raise OSError(error.errno, f"could not write {path}: {error.strerror or error}") from error
        finally:
            temporary.unlink(missing_ok=True)


class CachedStore:
    """A distant store whose contents, which never change, are kept in a local folder once they were fetched.

    A local copy carries the SHA-256 of its content, so that one which a dying process or disk damaged is fetched again.
    """

    def __init__(self, distant: Store, folder: Path) -> None:
        self.distant, self.folder = distant, folder
        self._read: dict[str, bytes] = {}

    def where(self, name: str) -> str:
        return self.distant.where(name)

    def names(self, after: str = "") -> list[str]:
        """As `Store` says. Of those that were read, only the last is looked for again: whether it was taken away."""
        read = sorted(name for name in self._read if name > after)
        return [*read[:-1], *self.distant.names(after=read[-2] if len(read) > 1 else after)]

    def get_all(self, names: Sequence[str]) -> list[bytes]:
        for name in names:
            if name not in self._read and (content := self._kept(name)) is not None:
                self._read[name] = content
        absent = [name for name in names if name not in self._read]
        for name, content in zip(absent, self.distant.get_all(absent), strict=True):
            self._keep(name, content)
        return [self._read[name] for name in names]

    def put_if_absent(self, name: str, content: bytes) -> bool:
        taken = self.distant.put_if_absent(name, content)
        if taken:
            self._keep(name, content)
        return taken

    def _kept(self, name: str) -> bytes | None:
        try:
            digest, _, content = (self.folder / name).read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        return content if hashlib.sha256(content).hexdigest().encode() == digest else None

    def _keep(self, name: str, content: bytes) -> None:
        """Not flushed: what is lost is fetched again."""
        self._read[name] = content
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{name}.{uuid.uuid4().hex}"
        temporary.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
        temporary.replace(self.folder / name)


def _read(folder: Path, name: str) -> bytes:
    """One file by plain system calls: a log of thousands is read whole each time."""
    try:
        descriptor = os.open(f"{folder}/{name}", os.O_RDONLY)
    except FileNotFoundError:
        raise FileNotFoundError(name) from None
    try:
        size = os.fstat(descriptor).st_size
        content = os.read(descriptor, size + 1)
        while len(content) < size and (more := os.read(descriptor, size + 1)):
            content += more
        return content
    finally:
        os.close(descriptor)


def _take_name(temporary: Path, path: Path) -> bool:
    """Give a finished file its name, durably; False when the name is taken (a rename would replace it)."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True
