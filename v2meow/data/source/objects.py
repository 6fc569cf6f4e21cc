"""What a source is to whoever brings its objects in."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class ChangedError(Exception):
    """The object is not what was listed: it changed or went since. Its text is for people."""


@dataclass(frozen=True, kw_only=True)
class Object:
    """One object of a listing: `version` differs whenever the content does. `size` in bytes."""

    key: str
    version: str
    size: int


class Source(Protocol):
    """Objects to be brought in. `address` names the source for good; it holds no password."""

    address: str

    def objects(self) -> Iterator[Object]:
        """Every object there is, in any order. DataError or OSError when the list cannot be had as a whole."""
        ...

    def fetch(self, wanted: Object, part: Path) -> None:
        """Bring the content to the file `part`, which may hold the beginning of it from an interrupted call.

        ChangedError when the object is no longer the one listed, DataError when it cannot be had. OSError when the
        disk is full. The file's size is checked; what is in the file after an error may be continued by another call.
        """
        ...
