"""The catalogue on disk: the table of clips, the list of rejected files, and who is held out.

A clip is a reference (file, start, length, checksum), never a copy of media. Knows nothing of
how videos are decoded or judged.
"""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from v2meow.files import atomic_file

RAW = Path("data/raw")
CLIPS = Path("data/clips/clips.parquet")
REJECTED = Path("data/rejected.csv")
GROUPS = Path("data/groups.parquet")
LEDGER = Path("data/ledger.parquet")
FORGOTTEN = RAW / ".forgotten"
EXAMPLES = Path("data/examples")
FAILED = EXAMPLES / "failed.csv"

CLIP_SLACK_S = 0.05  # encoders end a track up to a packet early; reading past the end gives silence, the last picture

Split = Literal["train", "holdout"]

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("video_id", pa.string()),
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("start", pa.float64()),
        ("seconds", pa.float64()),
        ("video_seconds", pa.float64()),
        ("fps", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sample_rate", pa.int32()),
        ("channels", pa.int32()),
        ("loudness_db", pa.float64()),
        ("split", pa.string()),
        ("caption", pa.string()),
        ("attributes", pa.string()),
        ("group", pa.string()),
        ("source", pa.string()),
        ("title", pa.string()),
        ("genre", pa.string()),
        ("licence", pa.string()),
        ("consent", pa.string()),
        ("lufs", pa.float64()),
        ("silent_share", pa.float64()),
        ("clipped_share", pa.float64()),
        ("music_score", pa.float64()),
        ("tempo", pa.float64()),
        ("variable_fps", pa.bool_()),
    ]
)


class DataError(ValueError):
    """A catalogue that cannot be used; the message is one line for people."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One row of the clips table. `path` is relative to the workspace; times are seconds, loudness is dBFS.

    Videos that hold the same music or pictures share a `group`, the id of one of them, and with it a split. `source`
    is where the file came from, empty where nobody recorded it; title, genre, licence and consent are the sidecar's
    words. What the music sounds like is measured on the clip, see `data.measure`: `tempo` is beats a minute, 0 where
    there is none.
    """

    clip_id: str
    video_id: str
    path: str
    sha256: str
    start: float
    seconds: float
    video_seconds: float
    fps: float
    width: int
    height: int
    sample_rate: int
    channels: int
    loudness_db: float
    split: Split
    caption: str
    attributes: dict[str, Any]
    group: str = ""
    source: str = ""
    title: str = ""
    genre: str = ""
    licence: str = ""
    consent: str = ""
    lufs: float = 0.0
    silent_share: float = 0.0
    clipped_share: float = 0.0
    music_score: float = 0.0
    tempo: float = 0.0
    variable_fps: bool = False


@dataclass(frozen=True)
class RejectedFile:
    """A file of the catalogue that ingest refused. `path` is relative to the workspace."""

    path: str
    reason: str


def split_of(group: str, holdout: float) -> Split:
    """The split of a group of videos, from its id alone: a catalogue that grows never moves a video.

    `group` is hexadecimal; read as a fraction of its range it is held out when below `holdout`.
    """
    return "holdout" if fraction(group) < holdout else "train"


def assign_splits(groups: Iterable[str], holdout: float) -> dict[str, Split]:
    """`split_of` each group, with at least one in either split.

    In a small catalogue chance may leave a split empty. Then the group with the smallest hash
    fraction is held out, or the one with the largest is trained on: again no choice by order.
    Raises DataError for fewer than two groups.
    """
    by_fraction = sorted(set(groups), key=fraction)
    if len(by_fraction) < 2:
        what = "usable video (copies of one count once)"
        raise DataError(f"{len(by_fraction)} {what}: training and evaluation need at least one each")
    splits: dict[str, Split] = {group: split_of(group, holdout) for group in by_fraction}
    splits[by_fraction[0]], splits[by_fraction[-1]] = "holdout", "train"
    return splits


def write_clips(path: Path, clips: Sequence[Clip]) -> None:
    """Write the clips table, sorted by path and start, atomically."""
    ordered = sorted(clips, key=lambda clip: (clip.path, clip.start))
    rows = [asdict(clip) | {"attributes": json.dumps(clip.attributes, sort_keys=True)} for clip in ordered]
    with atomic_file(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), temporary)


def read_clips(workspace: Path) -> list[Clip]:
    """The clips of a workspace in the table's order. DataError when there is no sound table."""
    rows = read_clips_table(workspace).to_pylist()
    return [Clip(**(row | {"attributes": json.loads(row["attributes"])})) for row in rows]


def read_clips_table(workspace: Path) -> pa.Table:
    """The clips table as it lies on disk, `attributes` unparsed. DataError when it is missing or not ours."""
    file = open_clips(workspace)
    try:
        return file.read()
    except pa.ArrowInvalid as error:
        raise DataError(f"{workspace / CLIPS} is not a Parquet file: {error}") from error


def open_clips(workspace: Path) -> pq.ParquetFile:
    """The same, to be read in parts or by columns."""
    path = workspace / CLIPS
    if not path.exists():
        raise DataError(f"{path}: no clips table: run `v2meow ingest` first")
    try:
        file = pq.ParquetFile(path)  # pq.read_table would take a folder named `a=b` above it for a column
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} is not a Parquet file: {error}") from error
    if file.schema_arrow != SCHEMA:
        raise DataError(f"{path} has other columns than this version writes: run `v2meow ingest` again")
    return file


def write_rejected(path: Path, rejected: Sequence[RejectedFile]) -> None:
    """Write the rejected files as CSV (path, reason), sorted by path, atomically; the header is always there."""
    _write_reasons(path, "path", [(row.path, row.reason) for row in rejected])


def read_rejected(path: Path) -> list[RejectedFile]:
    """The rejected files. DataError when the file has another header."""
    return [RejectedFile(*row) for row in _read_reasons(path, "path")]


def write_failed(path: Path, reasons: dict[str, str]) -> None:
    """Write why clips gave no example, by clip id, as CSV (clip_id, reason), sorted, atomically."""
    _write_reasons(path, "clip_id", list(reasons.items()))


def read_failed(path: Path) -> dict[str, str]:
    """Why clips gave no example, by clip id. DataError when the file has another header."""
    return dict(_read_reasons(path, "clip_id"))


def _write_reasons(path: Path, key: str, rows: list[tuple[str, str]]) -> None:
    # A file name need not be UTF-8, the list of what is wrong with it must be.
    with (
        atomic_file(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([(key, "reason"), *sorted(rows)])


def _read_reasons(path: Path, key: str) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = [(name, reason) for name, reason in csv.reader(file)]
    if rows[:1] != [(key, "reason")]:
        raise DataError(f"{path} does not start with the columns {key},reason")
    return rows[1:]


def fraction(group: str) -> float:
    """A hexadecimal id as a fraction of its range, which `split_of` compares with the share to hold out."""
    return int(group, 16) / 16 ** len(group)
