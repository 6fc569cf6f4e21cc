"""The unfinished examples: shards that are there stay there, however often the step is killed.

They lie beside data/examples, which DVC removes before it runs the step, in a folder named after all that the
examples depend on: shards of another recipe, catalogue or encoder are never taken for good ones.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from v2meow.config import Recipe
from v2meow.data import quarantine
from v2meow.data.dataset import schema
from v2meow.data.extract.columns import Rows
from v2meow.data.manifest import CLIPS, EXAMPLES, FAILED, write_failed
from v2meow.data.shards import shard_name, write_marker
from v2meow.encoders.visual import fingerprints
from v2meow.files import atomic_file, sha256
from v2meow.weights import METRICS

_FORMAT = 2  # raise it when the code makes other examples of the same inputs
_SECTIONS = ("media", "data", "visual", "semantic_ids", "codec", "joint")
_CATALOGUE = (
    "source",
    "licences",
    "holdout",
    "min_loudness_db",
)  # of `data`: which videos there are, not what is in them
_FAILED_KEY = b"failed"  # of a shard's own metadata: JSON, reasons by clip id


class Partial:
    """The shards of one extraction, by number."""

    def __init__(self, recipe: Recipe, workspace: Path) -> None:
        self.target = workspace / EXAMPLES
        self._schema = schema(recipe)
        self._root = self.target.with_name(f".{self.target.name}.partial")
        self._visual = fingerprints(recipe.visual)
        self._fingerprint, self._of_a_video = fingerprint(recipe, workspace), of_a_video(recipe, workspace)
        self._folder = self._root / self._fingerprint
        self._discard_others()

    def holds(self, number: int) -> bool:
        return self._path(number).is_file()  # it was renamed to this name when it was complete

    def write(self, number: int, batches: Sequence[Rows]) -> None:
        """Write a shard whole. OSError naming it when the disk is full."""
        failed = {clip_id: reason for rows in batches for clip_id, reason in rows.failed.items()}
        table = pa.concat_tables([rows.table for rows in batches], promote_options="none").combine_chunks()
        metadata = {_FAILED_KEY: json.dumps(failed, sort_keys=True)}
        with atomic_file(self._path(number)) as temporary:
            pq.write_table(table.replace_schema_metadata(metadata), temporary)

    def finish(self, count: int) -> dict[str, Any]:
        """Make data/examples of `count` shards, the list of them last; returns numbers of examples and of failures."""
        failed: dict[str, str] = {}
        for number in range(count):
            metadata = pq.ParquetFile(self._path(number)).schema_arrow.metadata
            failed |= json.loads(metadata[_FAILED_KEY])
        write_failed(self._folder / FAILED.name, failed)
        facts = {"fingerprint": self._fingerprint, "of_a_video": self._of_a_video, "visual": self._visual}
        marker = write_marker(self._folder, failed=len(failed), **facts)
        shutil.rmtree(self.target, ignore_errors=True)
        self._folder.replace(self.target)
        self._root.rmdir()
        return {"examples": marker["rows"], "failed": len(failed)}

    def _path(self, number: int) -> Path:
        return self._folder / shard_name(number)

    def _discard_others(self) -> None:
        """Remove what belongs to another extraction, and what a killed process was writing."""
        for path in self._root.glob("*"):
            if path != self._folder:
                shutil.rmtree(path)
        for path in self._folder.glob(".*"):
            path.unlink()


def fingerprint(recipe: Recipe, workspace: Path) -> str:
    """SHA-256 of all that the examples depend on: the code's format, recipe, clips, encoders and pretrained weights."""
    held = sorted({row.clip_id for row in quarantine.read(workspace)})
    content = [of_a_video(recipe, workspace), recipe.extract.shard_clips, sha256(workspace / CLIPS), held]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def of_a_video(recipe: Recipe, workspace: Path) -> str:
    """SHA-256 of all that the features and ids of one video depend on, besides the video."""
    values = asdict(recipe)
    encoders = workspace / "models" / "encoders"
    files = sorted(path for path in encoders.rglob("*") if path.is_file() and path.name != METRICS)
    content = {
        "format": _FORMAT,
        "recipe": {name: values[name] for name in _SECTIONS},
        "batch": recipe.extract.batch,
        "visual": fingerprints(recipe.visual),
        "files": {path.relative_to(workspace).as_posix(): sha256(path) for path in files},
    }
    for name in _CATALOGUE:
        content["recipe"]["data"].pop(name)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
