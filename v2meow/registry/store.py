"""Where a log's files live: contents under names in one folder, each put once and whole.

Knows nothing of events. `names`, `get` and `put_if_absent` are all that a log asks of its storage.
"""

import os
import uuid
from pathlib import Path


class FolderStore:
    """Contents under names in a local folder. Safe for many processes at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """Names of what is stored. Hidden files are what killed writers left, and do not count."""
        if not self.folder.is_dir():
            return []
        return [path.name for path in self.folder.iterdir() if not path.name.startswith(".")]

    def get(self, name: str) -> bytes:
        """The content under `name`; FileNotFoundError when there is none."""
        return (self.folder / name).read_bytes()

    def put_if_absent(self, name: str, content: bytes) -> bool:
        """Store `content` durably under `name`; False, and nothing stored, when the name is taken.

        Raises OSError naming the file when the disk is full or the folder is not writable.
        """
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
