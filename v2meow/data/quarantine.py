"""The clips that stay out of training, and why: written by `validate`, heeded by whatever learns from clips.

Knows nothing of the rules. A clip has one row for each rule that it is against.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from v2meow.data.manifest import Clip, DataError, read_clips
from v2meow.files import atomic_file

QUARANTINE = Path("data/quarantine.parquet")
SCHEMA = pa.schema([(name, pa.string()) for name in ("clip_id", "rule", "reason")])


@dataclass(frozen=True, kw_only=True, order=True)
class Held:
    """A clip, the rule that it is against, and what was found."""

    clip_id: str
    rule: str
    reason: str

    @property
    def video_id(self) -> str:
        return self.clip_id.partition("-")[0]


def write(workspace: Path, held: Sequence[Held]) -> None:
    """Write the table, sorted, atomically; it is there even when it is empty."""
    with atomic_file(workspace / QUARANTINE) as temporary:
        pq.write_table(pa.Table.from_pylist([asdict(row) for row in sorted(held)], SCHEMA), temporary)


def read(workspace: Path) -> list[Held]:
    """The table; nothing before the first `validate`. DataError for a file that is not ours."""
    path = workspace / QUARANTINE
    if not path.exists():
        return []
    try:
        table = pq.ParquetFile(path).read()
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} is not a Parquet file: {error}; run `v2meow validate` again") from error
    if table.schema != SCHEMA:
        raise DataError(f"{path} has other columns than this version writes: run `v2meow validate` again")
    return [Held(**row) for row in table.to_pylist()]


def usable_clips(workspace: Path) -> list[Clip]:
    """The clips of a workspace in the table's order, without those in quarantine. DataError as `read_clips`."""
    held = {row.clip_id for row in read(workspace)}
    return [clip for clip in read_clips(workspace) if clip.clip_id not in held]
