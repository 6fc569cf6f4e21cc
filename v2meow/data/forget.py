"""Forgetting a video for good: its file, what was made of it, and every version of that which can be reached.

What learnt from it cannot be unlearnt here; who that is, is for the caller to say. A killed call is repeated: the
content is marked first, so that it never comes in again, and what is gone already is not missed.
"""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from v2meow.data import examined, ledger
from v2meow.data.manifest import CLIPS, EXAMPLES, RAW, DataError
from v2meow.data.quarantine import QUARANTINE
from v2meow.data.shards import MARKER, write_marker
from v2meow.files import atomic_file, read_json, sha256
from v2meow.workspace import objects, stores

_SAMPLES = Path("reports/samples")
_SAMPLES_LIST = "samples.json"


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """What a call removed. `remotes` are those that were not looked through; `tables` still name the file."""

    sha256: str
    files: tuple[str, ...]  # relative to the workspace
    rows: int  # of clips and examples
    objects: int  # of DVC's, in all stores
    remotes: tuple[str, ...]
    tables: tuple[str, ...]

    @property
    def video_id(self) -> str:
        return self.sha256[:16]


def identify(workspace: Path, video: str) -> str:
    """The SHA-256 of a video's content, from its path, its id or that hash. DataError when nothing is known of it."""
    if re.fullmatch("[0-9a-f]{64}", video):
        return video
    for file in (Path(video), workspace / video):
        if file.is_file():
            return sha256(file)
    known = {(row.sha256, name) for row in ledger.read(workspace) for name in (row.path, row.key, row.uri)}
    if (workspace / CLIPS).is_file():
        table = pq.ParquetFile(workspace / CLIPS).read(["sha256", "path"])
        known |= set(zip(table["sha256"].to_pylist(), table["path"].to_pylist(), strict=True))
    is_id = re.fullmatch("[0-9a-f]{16}", video) is not None
    found = {digest for digest, name in known if name == video or (is_id and digest.startswith(video))}
    if len(found) != 1:
        what = "several contents" if found else "no content"
        raise DataError(f"{video!r} names {what} known here: give the file's path, or its SHA-256")
    return found.pop()


def forget(workspace: Path, digest: str) -> Forgotten:
    """Remove the content with this SHA-256 from data/raw, clips, examples, caches and all reachable stores of DVC.

    Objects of DVC go as a whole, with the rows of other videos in them: the examples of earlier versions that had them
    cannot be restored any more, and `extract` begins anew. The music of `reports/samples` goes in all versions, since
    it may be the video's. The clips tables of earlier versions stay: they hold no media, and say what was learnt from.
    """
    ledger.forget(workspace, [digest], datetime.now(UTC).isoformat(timespec="seconds"))
    files, tables = _remove_files(workspace, digest)
    examined.forget(workspace, digest)
    rows = _remove_rows(workspace, digest[:16])
    shutil.rmtree((workspace / EXAMPLES).with_name(f".{EXAMPLES.name}.partial"), ignore_errors=True)
    shutil.rmtree(workspace / _SAMPLES, ignore_errors=True)
    folders, elsewhere = stores(workspace)
    removed = 0
    for store in folders:
        for path in [*_with_rows(store, digest[:16]), *_samples(store)]:
            path.unlink(missing_ok=True)
            removed += 1
    return Forgotten(
        sha256=digest, files=tuple(files), rows=rows, objects=removed, remotes=tuple(elsewhere), tables=tuple(tables)
    )


def _remove_files(workspace: Path, digest: str) -> tuple[list[str], list[str]]:
    """Remove the files with this content and their sidecars; also tells the metadata tables that may name them."""
    hashes, removed, tables = examined.Hashes(workspace), [], set()
    for file in sorted((workspace / RAW).rglob("*")):
        if not file.is_file() or file.name.startswith(".") or hashes(file) != digest:
            continue
        sidecar = file.with_suffix(".json")
        alone = not any(other != file and other != sidecar for other in file.parent.glob(f"{_escaped(file.stem)}.*"))
        for path in (file, *([sidecar] if alone and sidecar.is_file() else [])):
            path.unlink()
            removed.append(path.relative_to(workspace).as_posix())
        above = [parent for parent in file.parents if parent.is_relative_to(workspace / RAW)]
        tables |= {parent / "metadata.csv" for parent in above if (parent / "metadata.csv").is_file()}
    return removed, sorted(table.relative_to(workspace).as_posix() for table in tables)


def _escaped(stem: str) -> str:
    """A file's stem as a pattern that matches it alone."""
    return re.sub(r"([\[*?])", r"[\1]", stem)


def _remove_rows(workspace: Path, video_id: str) -> int:
    """Rewrite the tables of the workspace without the video; how many rows it had in clips and examples."""
    rows = _without(workspace / CLIPS, video_id)
    _without(workspace / QUARANTINE, video_id)
    of_examples = sum(_without(shard, video_id) for shard in sorted((workspace / EXAMPLES).glob("*.parquet")))
    marker = workspace / EXAMPLES / MARKER
    if of_examples and marker.is_file():
        facts = read_json(marker)
        write_marker(workspace / EXAMPLES, **{key: facts[key] for key in facts if key not in ("shards", "rows")})
    return rows + of_examples


def _without(path: Path, video_id: str) -> int:
    """Rewrite a table without the clips of a video; how many that were."""
    if not path.is_file():
        return 0
    table = pq.ParquetFile(path).read()
    keep = [not str(clip).startswith(video_id) for clip in table["clip_id"].to_pylist()]
    if all(keep):
        return 0
    with atomic_file(path) as temporary:  # never into a file that may be a link into DVC's cache
        pq.write_table(table.filter(pa.array(keep)), temporary)
    return len(keep) - sum(keep)


def _with_rows(store: Path, video_id: str) -> Iterator[Path]:
    """Objects that are tables of examples with the video among them: its tokens are its music, pressed."""
    for path in objects(store):
        with path.open("rb") as file:
            if file.read(4) != b"PAR1":
                continue
        try:
            table = pq.ParquetFile(path)
            if not {"clip_id", "codes"} <= set(table.schema_arrow.names):
                continue
            clips = table.read(["clip_id"])["clip_id"].to_pylist()
        except pa.ArrowInvalid:
            continue  # damaged, or of somebody else
        if any(str(clip).startswith(video_id) for clip in clips):
            yield path


def _samples(store: Path) -> Iterator[Path]:
    """Objects of the folders of samples, in every version: all but their lists."""
    for listing in objects(store):
        if listing.suffix != ".dir":
            continue
        entries = read_json(listing)
        if any(entry["relpath"] == _SAMPLES_LIST for entry in entries):
            paths = (store / "files/md5" / entry["md5"][:2] / entry["md5"][2:] for entry in entries)
            yield from (
                path
                for path, entry in zip(paths, entries, strict=True)
                if entry["relpath"] != _SAMPLES_LIST and path.is_file()
            )
