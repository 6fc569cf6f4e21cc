"""Bringing new videos from a source into data/raw, so that a second call does nothing and a killed one loses nothing.

Objects are fetched beside data/raw and hashed there; what is whole takes its place by one rename, and then stands in
the ledger. Knows nothing of how a source is read, nor of what is in a video.
"""

import fcntl
import hashlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from v2meow.data import ledger
from v2meow.data.ledger import Row
from v2meow.data.manifest import RAW, DataError
from v2meow.data.sidecar import TABLE, is_utf8
from v2meow.data.source import ChangedError, Object, Source
from v2meow.files import sha256
from v2meow.progress import progress
from v2meow.workspace.folder import VIDEO_SUFFIXES

_PARTS = Path("data/.pull")  # on the file system of data/raw; hidden, hence no part of any version
_SAVE_S = 5.0  # between two writings of the ledger while objects come in
_ATTEMPTS = 3  # at an object that changes while it is fetched
_FAILURES = 5  # in a row, after which it is the source that fails
_LONGEST_NAME = 200  # bytes


@dataclass(kw_only=True)
class Pulled:
    """What a pull did, in numbers of objects: `same_content` are those new ones that needed no file of their own.

    `skipped` says why, by key, for those that were left out: they are looked at again next time.
    """

    added: int = 0
    unchanged: int = 0
    replaced: int = 0
    gone: int = 0
    same_content: int = 0
    forgotten: int = 0
    skipped: dict[str, str] = field(default_factory=dict)


def pull(workspace: Path, source: Source, *, allow_empty: bool = False) -> Pulled:
    """Make data/raw hold what the source holds, but for what was forgotten. Files from elsewhere are left alone.

    DataError when the source cannot be listed as a whole, or lists nothing although it did before (which a wrong
    prefix or an unmounted disk looks like) unless `allow_empty`. OSError when the disk is full: what came in before
    that stays, and the next call goes on from there.
    """
    with _alone(workspace):
        keeper = _Keeper(workspace, source)
        listed, skipped = _usable(source)
        if not listed and keeper.has_rows() and not allow_empty:
            raise DataError(f"{source.address} lists nothing any more: nothing was changed; see `allow_empty`")
        keeper.pulled.skipped |= skipped
        try:
            with progress("pull", len(listed)) as bar:
                for wanted in listed:
                    keeper.bring(wanted)
                    bar.advance(note=f"{keeper.pulled.added} new")
            keeper.drop_all_but({wanted.key for wanted in listed} | skipped.keys())
        finally:
            keeper.save()
        return keeper.pulled


def news(workspace: Path, source: Source) -> int:
    """How many objects of the source a pull would look at: new, changed and gone ones. Fetches none."""
    rows = {row.key: row for row in ledger.read(workspace) if row.source == source.address and row.state != "gone"}
    listed, _ = _usable(source)
    known = {key: row.version for key, row in rows.items() if row.state in ("present", "forgotten")}
    changed = sum(known.get(wanted.key) != wanted.version for wanted in listed)
    present = {key for key, row in rows.items() if row.state == "present"}
    return changed + len(present - {wanted.key for wanted in listed})


class _Keeper:
    """The ledger while it changes, and the files that it speaks of."""

    def __init__(self, workspace: Path, source: Source) -> None:
        self._workspace, self._source = workspace, source
        self._rows = ledger.read(workspace)
        self._forgotten = ledger.forgotten(workspace)
        self._latest = {row.key: at for at, row in enumerate(self._rows) if row.source == source.address}
        self._holders: dict[str, set[int]] = {}
        for at, row in enumerate(self._rows):
            if row.state == "present" and row.source == source.address:
                self._holders.setdefault(row.sha256, set()).add(at)
        self._label = self._choose_label()
        self._changed, self._saved_at, self._failures = False, time.monotonic(), 0
        self.pulled = Pulled()

    def has_rows(self) -> bool:
        return any(self._rows[at].state == "present" for at in self._latest.values())

    def bring(self, wanted: Object) -> None:
        """Have the object in data/raw, unless it is there or may not be."""
        at = self._latest.get(wanted.key)
        before = self._rows[at] if at is not None else None
        if before is not None and before.version == wanted.version and self._stands(before):
            self.pulled.unchanged += 1
            return
        try:
            wanted, part = self._fetch(wanted)
        except ChangedError as error:
            self.pulled.skipped[wanted.key] = str(error)
            return
        except DataError as error:
            self._failures += 1
            if self._failures == _FAILURES:
                raise
            self.pulled.skipped[wanted.key] = str(error)
            return
        self._failures = 0
        self._take(wanted, part, at)

    def drop_all_but(self, keys: set[str]) -> None:
        """Objects that the source no longer lists leave data/raw."""
        for key, at in list(self._latest.items()):
            if key not in keys and self._rows[at].state == "present":
                self._leave(at, "gone")
                self.pulled.gone += 1

    def save(self, at_least_s: float = 0.0) -> None:
        if self._changed and time.monotonic() - self._saved_at >= at_least_s:
            ledger.write(self._workspace, self._rows)
            self._changed, self._saved_at = False, time.monotonic()

    def _stands(self, row: Row) -> bool:
        if row.state == "forgotten" or row.sha256 in self._forgotten:
            self.pulled.forgotten += 1
            return True
        return row.state == "present" and self._is_whole(row)

    def _fetch(self, wanted: Object) -> tuple[Object, Path]:
        """The object, as it is now, in a whole file. ChangedError when it changes again and again."""
        for attempt in range(_ATTEMPTS):
            name = hashlib.sha256(f"{self._source.address}\0{wanted.key}\0{wanted.version}".encode()).hexdigest()[:32]
            part = self._workspace / _PARTS / f"{name}.part"
            try:
                self._source.fetch(wanted, part)
            except ChangedError:
                part.unlink(missing_ok=True)
                now = None if attempt == _ATTEMPTS - 1 else self._now(wanted.key)
                if now is None:
                    raise
                wanted = now
                continue
            except OSError:  # a full disk: the ledger needs room more than half an object does
                part.unlink(missing_ok=True)
                raise
            return wanted, part
        raise AssertionError("unreachable")

    def _now(self, key: str) -> Object | None:
        return next((found for found in self._source.objects() if found.key == key), None)

    def _take(self, wanted: Object, part: Path, at: int | None) -> None:
        """Let a whole file take its place, and say so."""
        digest = sha256(part)
        if digest in self._forgotten:
            part.unlink()
            self.pulled.forgotten += 1
            self._note(wanted, digest, "", "forgotten", at)
            return
        twin = self._twin(digest) if _is_video(wanted.key) else None
        before = None if at is None else self._rows[at]
        if twin is None:
            if before is not None and at is not None:
                self._hand_over(before, at)
            path = self._path(wanted.key)
            part.replace(self._made(path))
        else:
            path = twin
        part.unlink(missing_ok=True)  # also where both are links to one file: then renaming does nothing
        if before is not None and at is not None and before.state == "present" and before.sha256 == digest:
            self._rows[at] = replace(before, version=wanted.version, path=path)  # only its time or upload is another
            self._changed = True
            self.pulled.unchanged += 1
        else:
            self.pulled.same_content += twin is not None
            self._note(wanted, digest, path, "present", at)

    def _twin(self, digest: str) -> str | None:
        """Where an equal video lies already."""
        held = (self._rows[at] for at in sorted(self._holders.get(digest, ())))
        return next((row.path for row in held if self._is_whole(row)), None)

    def _is_whole(self, row: Row) -> bool:
        file = self._workspace / row.path
        return file.is_file() and file.stat().st_size == row.size

    def _note(self, wanted: Object, digest: str, path: str, state: ledger.State, at: int | None) -> None:
        row = Row(
            source=self._source.address,
            key=wanted.key,
            version=wanted.version,
            sha256=digest,
            size=wanted.size,
            path=path,
            state=state,
            seen=_now_text(),
        )
        self._rows.append(row)
        new = len(self._rows) - 1
        self._latest[wanted.key] = new
        if state == "present":
            self._holders.setdefault(digest, set()).add(new)
        if at is not None and self._rows[at].state == "present":
            self._leave(at, "replaced")
            self.pulled.replaced += 1
        elif state == "present":
            self.pulled.added += 1
        self._changed = True
        self.save(_SAVE_S)

    def _leave(self, at: int, state: ledger.State) -> None:
        """An object's content is no longer asked for by it: the file goes, unless another object holds the same."""
        row = self._rows[at]
        self._rows[at] = replace(row, state=state, path="", left=_now_text())
        self._holders[row.sha256].discard(at)
        self._changed = True
        if not self._hand_over(row, at) and self._rows[self._latest[row.key]].path != row.path:
            (self._workspace / row.path).unlink(missing_ok=True)

    def _hand_over(self, row: Row, at: int) -> bool:
        """Give the file of a row to another object that holds the same, under its name, beside its sidecar."""
        others = self._holders.get(row.sha256, set()) - {at}
        heirs = [other for other in others if row.path and self._rows[other].path == row.path]
        if not heirs:
            return False
        new = self._path(self._rows[min(heirs)].key)
        file = self._workspace / row.path
        if file.is_file() and sha256(file) == row.sha256:  # a linked file may have been written to at the source
            file.replace(self._made(new))
        for heir in heirs:
            self._rows[heir] = replace(self._rows[heir], path=new)
        self._changed = True
        return True

    def _path(self, key: str) -> str:
        return (RAW / self._label / _local(key)).as_posix()

    def _made(self, path: str) -> Path:
        """A path in the workspace whose folder exists."""
        target = self._workspace / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _choose_label(self) -> str:
        """The folder in data/raw of this source: its own last name, and a number where another source has that."""
        for row in self._rows:
            if row.source == self._source.address and row.path:
                return PurePosixPath(row.path).relative_to(RAW).parts[0]
        name = _local(PurePosixPath(self._source.address).name or "source")
        taken = {PurePosixPath(row.path).relative_to(RAW).parts[0] for row in self._rows if row.path}
        if name in taken:
            name += f"-{hashlib.sha256(self._source.address.encode()).hexdigest()[:8]}"
        return name


def _usable(source: Source) -> tuple[list[Object], dict[str, str]]:
    """Videos, sidecars and tables of a source, by key; and why others of these are left out."""
    listed, skipped = [], {}
    for found in source.objects():
        if not _is_video(found.key) and not found.key.endswith(".json") and PurePosixPath(found.key).name != TABLE:
            continue
        if is_utf8(found.key):
            listed.append(found)
        else:
            skipped[found.key.encode(errors="backslashreplace").decode()] = "the name is not UTF-8"
    return sorted(listed, key=lambda each: each.key), skipped


def _is_video(key: str) -> bool:
    return PurePosixPath(key).suffix.lower() in VIDEO_SUFFIXES


def _local(key: str) -> str:
    """A key as a path below a folder that it cannot leave: no step up, nothing hidden, no control characters."""
    return "/".join(_safe(part) for part in key.split("/") if part) or "_"


def _safe(part: str) -> str:
    name = re.sub(r"[\x00-\x1f\x7f]|%(?=[0-9A-F]{2})", lambda found: f"%{ord(found.group()):02X}", part)
    if name.startswith("."):
        name = f"%2E{name[1:]}"
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    stem, dot, suffix = name.rpartition(".")
    kept = (stem or suffix).encode()[: _LONGEST_NAME - 60].decode(errors="ignore")
    return f"{kept}-{hashlib.sha256(part.encode()).hexdigest()[:16]}{dot}{suffix[:16]}"


@contextmanager
def _alone(workspace: Path) -> Iterator[None]:
    """Keep a second pull out. A killed one leaves nothing that would."""
    folder = workspace / _PARTS
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"another pull is at work in {workspace}: wait for its end") from None
        yield


def _now_text(clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> str:
    return clock().isoformat(timespec="seconds")
