"""A folder as a source: files are cloned or linked where the file system can, else copied."""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from fcntl import ioctl
from pathlib import Path

from v2meow.data.manifest import DataError
from v2meow.data.source.objects import ChangedError, Object

_FICLONE = 0x40049409  # Linux: a file that shares the other's blocks until one of them is written to


class Folder:
    """The regular files below a folder; hidden ones and links to folders are passed over."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.expanduser().resolve()
        self.address = str(self._folder)

    def objects(self) -> Iterator[Object]:
        if not self._folder.is_dir():
            raise DataError(f"{self._folder} is not a folder that can be pulled from: is it mounted?")

        def refuse(error: OSError) -> None:
            raise DataError(f"{error.filename} cannot be listed: {error.strerror}") from error

        for here, folders, files in os.walk(self._folder, onerror=refuse):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in files:
                path = Path(here) / name
                if not name.startswith(".") and path.is_file():
                    yield _object(path, path.relative_to(self._folder).as_posix())

    def fetch(self, wanted: Object, part: Path) -> None:
        path = self._folder / wanted.key
        part.unlink(missing_ok=True)
        try:
            self._must_be(wanted)
            _copy(path.resolve(), part)
            self._must_be(wanted)
        except FileNotFoundError as error:
            raise ChangedError("it went while it was read") from error
        except PermissionError as error:
            raise DataError(f"{path} may not be read: {error.strerror}") from error

    def _must_be(self, wanted: Object) -> None:
        if _object(self._folder / wanted.key, wanted.key) != wanted:
            raise ChangedError("it changed while it was read")


def _object(path: Path, key: str) -> Object:
    about = path.stat()
    return Object(key=key, version=f"{about.st_size}-{about.st_mtime_ns}-{about.st_ino}", size=about.st_size)


def _copy(path: Path, part: Path) -> None:
    """Clone, link or copy a file; a link is given up where the name cannot have another one."""
    with path.open("rb") as old, part.open("wb") as new, suppress(OSError):
        ioctl(new.fileno(), _FICLONE, old.fileno())
        return
    part.unlink()
    try:
        os.link(path, part)
    except OSError:  # another file system, or one without links
        shutil.copyfile(path, part)
