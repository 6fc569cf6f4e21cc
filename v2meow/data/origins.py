"""The videos behind a model: one row a video, taken from a clips table and kept as Parquet beside the model.

Clips tables of earlier versions are read, too: what they lack is empty. Knows nothing of models and registries.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from v2meow.data.manifest import DataError
from v2meow.files import atomic_file

SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("sha256", pa.string()),
        ("path", pa.string()),  # relative to the workspace
        ("split", pa.string()),
        ("clips", pa.int32()),
        ("seconds", pa.float64()),  # of the whole video
        # What the catalogue says, empty where it says nothing:
        ("licence", pa.string()),
        ("consent", pa.string()),
        ("source", pa.string()),
        ("title", pa.string()),
        ("group", pa.string()),
    ]
)
_SAID = ("licence", "consent", "source", "title", "group")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How many videos a model was trained on and judged by, their hours together, and videos by licence."""

    train: int
    holdout: int
    hours: float
    licences: dict[str, int]


def videos_of(clips: Path) -> pa.Table:
    """The videos of a clips table, sorted by their ids; a row as in `SCHEMA`. DataError when it is none."""
    try:
        file = pq.ParquetFile(clips)
        wanted = ["video_id", "sha256", "path", "split", "video_seconds", "attributes", *_SAID]
        table = file.read(columns=[name for name in wanted if name in file.schema_arrow.names])
        firsts = [(name, "first") for name in table.column_names if name != "video_id"]
        videos = table.group_by("video_id", use_threads=False).aggregate([*firsts, ("video_id", "count")])
        videos = videos.sort_by("video_id")
        columns = {name: videos[f"{name}_first"] for name in ("sha256", "path", "split")}
        columns |= {"video_id": videos["video_id"], "seconds": videos["video_seconds_first"]}
        columns |= {"clips": videos["video_id_count"]} | {name: _said(videos, name) for name in _SAID}
    except (pa.ArrowInvalid, KeyError, FileNotFoundError) as error:
        raise DataError(f"{clips} is no table of clips: {error}") from error
    return pa.table({name: columns[name].cast(SCHEMA.field(name).type) for name in SCHEMA.names}, schema=SCHEMA)


def write(path: Path, videos: pa.Table) -> None:
    """Write the table atomically; the same videos give the same bytes."""
    with atomic_file(path) as temporary:
        pq.write_table(videos, temporary, compression="zstd")


def read(content: bytes) -> pa.Table:
    """The table that `write` wrote. DataError when it is none."""
    try:
        # Read by this thread from Arrow's own memory: a thread of Arrow's that still holds something of Python's when a
        # short command ends aborts the process.
        table = pq.ParquetFile(pa.BufferReader(content), pre_buffer=False).read(use_threads=False)
    except pa.ArrowInvalid as error:
        raise DataError(f"this is no table of videos: {error}") from error
    if table.schema != SCHEMA:
        raise DataError("this is no table of videos: it has other columns")
    return table


def trained_on(videos: pa.Table, video_id: str) -> bool:
    """Whether the video was among those that the models learnt from. A SHA-256 stands for the id that begins it."""
    row = videos["video_id"].index(video_id[:16]).as_py()
    return row >= 0 and videos["split"][row].as_py() == "train"


def summary(videos: pa.Table) -> Summary:
    """The table in a few numbers."""
    licences = Counter(licence or "unknown" for licence in videos["licence"].to_pylist())
    train = videos["split"].to_pylist().count("train")
    return Summary(
        train=train,
        holdout=len(videos) - train,
        hours=sum(videos["seconds"].to_pylist()) / 3600.0,
        licences=dict(sorted(licences.items(), key=lambda pair: (-pair[1], pair[0]))),
    )


def _said(videos: pa.Table, name: str) -> pa.Array:
    """A column of the catalogue; where it is empty or was not there yet, what the videos' own attributes say."""
    columns, empty = videos.column_names, [""] * len(videos)
    said = videos[f"{name}_first"].to_pylist() if f"{name}_first" in columns else empty
    texts = videos["attributes_first"].to_pylist() if "attributes_first" in columns else empty
    return pa.array([word or _attribute(text, name) for word, text in zip(said, texts, strict=True)], pa.string())


def _attribute(attributes: str | None, name: str) -> str:
    found: dict[str, Any] = json.loads(attributes or "{}")
    return str(found.get(name) or (found.get("license") if name == "licence" else "") or "")
