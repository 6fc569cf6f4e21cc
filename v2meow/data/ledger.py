"""The ledger: every version of every object that a source has shown, by content, and what may never come in again.

One row for each version of an object; a content that several objects hold lies once under data/raw. Forgotten contents
also stand in data/raw/.forgotten, one SHA-256 a line, because that belongs to what ingest depends on. Knows nothing of
how objects are listed and fetched.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from v2meow.data.manifest import FORGOTTEN, LEDGER, DataError
from v2meow.files import atomic_file

# `present`: the source has it; `replaced`: the object has another content now; `gone`: the source no longer lists it.
State = Literal["present", "replaced", "gone", "forgotten"]

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("source", "key", "version", "sha256")),
        ("size", pa.int64()),
        *((name, pa.string()) for name in ("path", "state", "seen", "left")),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A version of an object: `version` is the source's own mark of it (an ETag, or size and times).

    `path` is where its content lies, relative to the workspace, "" where it does not. `seen` and `left` are the times,
    ISO 8601 in UTC, when it was brought in and when it was found replaced, gone or forgotten ("" before).
    """

    source: str
    key: str
    version: str
    sha256: str
    size: int
    path: str
    state: State
    seen: str
    left: str = ""

    @property
    def uri(self) -> str:
        return f"{self.source.rstrip('/')}/{self.key}"


def read(workspace: Path) -> list[Row]:
    """All rows in the order in which they came; none before the first pull. DataError for a file that is not ours."""
    path = workspace / LEDGER
    if not path.exists():
        return []
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} is not a Parquet file: {error}; restore it from git") from error
    if table.schema != SCHEMA:
        raise DataError(f"{path} has other columns than this version writes: restore it from git")
    return [Row(**row) for row in table.to_pylist()]


def write(workspace: Path, rows: Sequence[Row]) -> None:
    """Write the ledger atomically."""
    with atomic_file(workspace / LEDGER) as temporary:
        pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], SCHEMA), temporary)


def sources(workspace: Path) -> dict[str, str]:
    """Where each content that is here came from, by SHA-256: the address of the first object that holds it."""
    found: dict[str, str] = {}
    for row in read(workspace):
        if row.state == "present":
            found.setdefault(row.sha256, row.uri)
    return found


def forgotten(workspace: Path) -> frozenset[str]:
    """SHA-256 of contents that may never come in again. DataError for a list that is damaged."""
    path = workspace / FORGOTTEN
    if not path.exists():
        return frozenset()
    lines = path.read_text(errors="replace").splitlines()
    for line in lines:
        if re.fullmatch("[0-9a-f]{64}", line) is None:
            raise DataError(f"{path} must hold one SHA-256 a line, not {line[:80]!r}: mend it before anything comes in")
    return frozenset(lines)


def forget(workspace: Path, digests: Iterable[str], now: str) -> list[Path]:
    """Mark contents so that they never come in again; the files that hold them now, which are left to the caller.

    The list is written before the ledger: a killed call leaves more forgotten, never less. `now` is ISO 8601, UTC.
    """
    new = set(digests)
    for digest in new:
        assert re.fullmatch("[0-9a-f]{64}", digest), digest
    (workspace / FORGOTTEN).parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(workspace / FORGOTTEN) as temporary:
        temporary.write_text("".join(f"{digest}\n" for digest in sorted(forgotten(workspace) | new)))
    rows = read(workspace)
    files = {workspace / row.path for row in rows if row.sha256 in new and row.path}
    if any(row.sha256 in new for row in rows):
        write(workspace, [_left(row, now) if row.sha256 in new and row.state != "forgotten" else row for row in rows])
    return sorted(files)


def _left(row: Row, now: str) -> Row:
    return replace(row, path="", state="forgotten", left=now)
