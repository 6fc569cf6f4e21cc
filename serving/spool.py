"""Generations on disk: what was asked, how far it is, what came out. Every ingress process sees the same folder.

ID/generation.json   the record      ID/input        the video      ID/take-1.wav …      ID/take-1.mp4 …
keys/HASH            the ID of the generation that an idempotency key stands for
"""

import fcntl
import hashlib
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from serving.problems import Problem
from v2meow.files import atomic_file, read_json, sha256, write_json

RECORD, INPUT = "generation.json", "input"
_ID = re.compile(r"[0-9a-f]{32}")
# A record that is gone, or that another version of this program wrote.
_UNREADABLE = (FileNotFoundError, ValueError, TypeError, LookupError)

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Mode = Literal["stream", "async"]


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a request asks for, beside its video."""

    prompt: str | None = None
    seconds: float | None = None
    seed: int = 0
    takes: int = 1
    model: str | None = None


@dataclass(kw_only=True)
class Record:
    """A generation as anybody may see it, except for `owner`, the API key's name that alone may."""

    id: str
    order: Order
    mode: Mode
    owner: str
    created: float
    expires: float
    input: dict[str, Any]  # SHA-256 and bytes
    status: Status = "queued"
    model: dict[str, str] = field(default_factory=dict)  # label and digest
    seconds: float | None = None
    progress: dict[str, float] = field(default_factory=dict)  # share of each stage, over all takes
    takes: list[dict[str, Any]] = field(default_factory=list)  # best first: number, seed, level, agreement
    error: dict[str, Any] | None = None
    attempts: int = 0

    @property
    def ended(self) -> bool:
        return self.status in ("succeeded", "failed", "cancelled")


class Spool:
    """The folder. Records appear whole; what is expired goes."""

    def __init__(self, folder: Path, keep_s: float) -> None:
        self.folder, self._keep_s = folder, keep_s
        self._ended: dict[str, float] = {}  # when a generation that has ended expires, by its id
        (folder / "keys").mkdir(parents=True, exist_ok=True)

    def new(self, order: Order, mode: Mode, owner: str, upload: Path) -> Record:
        """A queued generation; `upload` is moved into it."""
        now = time.time()
        record = Record(
            id=uuid.uuid4().hex,
            order=order,
            mode=mode,
            owner=owner,
            created=now,
            expires=now + self._keep_s,
            input={"sha256": sha256(upload), "bytes": upload.stat().st_size},
        )
        self.place(record.id).mkdir()
        shutil.move(upload, self.place(record.id) / INPUT)
        self.save(record)
        return record

    def place(self, name: str) -> Path:
        """The folder of a generation. Problem 404 for what is no id."""
        if not _ID.fullmatch(name):
            raise Problem(404, "no-such-generation", "there is no generation of that id")
        return self.folder / name

    def save(self, record: Record) -> None:
        """Write the record, whole. FileNotFoundError for a generation that was forgotten: it does not come back."""
        if not self.keeps(record.id):
            raise FileNotFoundError(f"generation {record.id} was forgotten")
        write_json(self.place(record.id) / RECORD, asdict(record))

    def keeps(self, name: str) -> bool:
        """Whether a generation has its folder still."""
        return self.place(name).is_dir()

    def load(self, name: str, owner: str | None = None) -> Record:
        """The record. Problem 404 when it is unknown, expired, or another owner's."""
        try:
            record = _record(self.place(name) / RECORD)
        except _UNREADABLE:
            record = None
        if record is None or record.expires < time.time() or owner not in (None, record.owner):
            raise Problem(404, "no-such-generation", "there is no generation of that id, or it has expired")
        return record

    def claim(self, key: str, owner: str, name: str) -> str:
        """Let an idempotency key stand for generation `name`; that for which it stands already, or `name`.

        One that was cancelled, or failed in a way that may pass, gives its key to the next.
        """
        file = self.folder / "keys" / hashlib.sha256(f"{owner}|{key}".encode()).hexdigest()
        with self._alone():
            if file.exists() and self._answers(earlier := file.read_text()):
                return earlier
            with atomic_file(file) as written:
                written.write_text(name)
        return name

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process changes what keys stand for meanwhile."""
        with (self.folder / "keys.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _answers(self, name: str) -> bool:
        """Whether a generation is there whose result, or failure, would be that of a repeated request."""
        try:
            record = self.load(name)
        except Problem:
            return False
        return record.status != "cancelled" and not (record.error and record.error["retriable"])

    def forget(self, name: str) -> None:
        """Remove a generation and all its files."""
        shutil.rmtree(self.place(name), ignore_errors=True)

    def tidy(self) -> None:
        """Remove what has expired, what was never whole, and keys that stand for nothing any more."""
        expires = {record.id: record.expires for record in self.pending()} | self._ended
        for name in [name for name, moment in expires.items() if moment < time.time()]:
            self.forget(name)
        for path in self._places():
            if path.name not in expires and not (path / RECORD).exists() and self._is_old(path):
                self.forget(path.name)
        with self._alone():
            for file in (self.folder / "keys").iterdir():
                if self._is_old(file) and not (self.folder / file.read_text()).is_dir():
                    file.unlink()

    def _is_old(self, path: Path) -> bool:
        try:
            return path.stat().st_mtime < time.time() - self._keep_s
        except FileNotFoundError:
            return False

    def records(self) -> Iterator[Record]:
        """All that are there, expired ones too."""
        return _readable(self._places())

    def pending(self) -> list[Record]:
        """Those that have not ended. A record that has ended stays as it is, and is read once, however often one looks:

        the results of an hour may be ten thousand.
        """
        places = self._places()
        present = {path.name for path in places}
        self._ended = {name: expires for name, expires in self._ended.items() if name in present}
        records = list(_readable(path for path in places if path.name not in self._ended))
        self._ended |= {record.id: record.expires for record in records if record.ended}
        return [record for record in records if not record.ended]

    def _places(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if _ID.fullmatch(path.name)]

    def beat(self, name: str) -> None:
        """Say that somebody works on it."""
        (self.place(name) / "beat").touch()

    def silent_for(self, name: str) -> float:
        """Seconds since somebody last said so; since it was made, where nobody did."""
        for file in ("beat", RECORD):
            with suppress(FileNotFoundError):
                return time.time() - (self.place(name) / file).stat().st_mtime
        return 0.0

    def take_over(self, record: Record) -> bool:
        """Whether this process is the one to begin the record's next attempt; exactly one is."""
        try:
            (self.place(record.id) / f"attempt-{record.attempts + 1}").touch(exist_ok=False)
        except (FileExistsError, FileNotFoundError):
            return False
        return True


def _readable(places: Iterable[Path]) -> Iterator[Record]:
    for path in places:
        with suppress(*_UNREADABLE):
            yield _record(path / RECORD)


def _record(path: Path) -> Record:
    values = read_json(path)
    return Record(**values | {"order": Order(**values["order"])})
