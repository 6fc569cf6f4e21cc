"""The examples folder: Parquet files, failed.csv, and the list of them that makes the folder complete.

The list is written last. Knows files, not what their columns mean.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from v2meow.data.manifest import DataError
from v2meow.files import DamagedFileError, read_json, sha256, write_json

MARKER = "examples.json"
_AGAIN = "run `v2meow extract` again"


def shard_name(number: int) -> str:
    """The file of shard `number`; names sort as numbers do."""
    return f"part-{number:05d}.parquet"


def write_marker(folder: Path, **facts: Any) -> dict[str, Any]:
    """Write the list of all Parquet files of `folder` with their rows and SHA-256, and `facts`; returns it."""
    files = sorted(folder.glob("*.parquet"))
    shards = [
        {"file": file.name, "rows": pq.ParquetFile(file).metadata.num_rows, "sha256": sha256(file)} for file in files
    ]
    marker = {"shards": shards, "rows": sum(shard["rows"] for shard in shards), **facts}
    write_json(folder / MARKER, marker)
    return marker


def read_shards(folder: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The tables of a complete folder, in the order of their names, each checked against the list.

    Of their columns, those of `columns`, or all. None where nothing was extracted. DataError when the list is missing,
    or a file is, or is not the one listed.
    """
    if not (folder / MARKER).is_file():
        if any(folder.glob("*.parquet")):
            raise DataError(f"the examples in {folder} are not complete ({MARKER} is missing): {_AGAIN}")
        return
    try:
        shards = [(folder / shard["file"], shard["sha256"]) for shard in read_json(folder / MARKER)["shards"]]
    except (DamagedFileError, LookupError, TypeError) as error:
        raise DataError(f"{folder / MARKER} is no list of examples ({error}): {_AGAIN}") from error
    for path, digest in shards:
        yield _checked(path, digest, columns)


def _checked(path: Path, digest: str, columns: list[str] | None) -> pa.Table:
    if not path.is_file():
        raise DataError(f"{path} is missing: {_AGAIN}")
    if sha256(path) != digest:
        raise DataError(f"{path} is not the file that was extracted: {_AGAIN}")
    return pq.ParquetFile(path).read(columns)
