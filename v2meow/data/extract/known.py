"""What the last examples already hold: rows of videos that are as they were, under the same recipe and encoders.

DVC removes the examples before the step runs, but keeps their last version in its cache; they are read there. Rows of a
video depend on the video alone, so those of one whose clips are all there are what extraction would make, bit for bit.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from v2meow.config import Recipe
from v2meow.data.dataset import schema
from v2meow.data.extract.columns import Rows, of_the_table
from v2meow.data.extract.partial import of_a_video
from v2meow.data.extract.plan import Batch
from v2meow.data.manifest import EXAMPLES, Clip
from v2meow.data.shards import MARKER
from v2meow.files import read_json, sha256
from v2meow.workspace import last_version


class Known:
    """The rows of the last examples by their clips; none where they were made otherwise, or are not to be had."""

    def __init__(self, recipe: Recipe, workspace: Path, clips: Sequence[Clip]) -> None:
        self._schema = schema(recipe)
        self._places: dict[str, tuple[Path, int]] = {}
        files = last_version(workspace, EXAMPLES.as_posix())
        marker = read_json(files[MARKER]) if MARKER in files else {}
        if marker.get("of_a_video") != of_a_video(recipe, workspace):
            return
        found: dict[str, dict[str, tuple[Path, int]]] = {}
        for shard in marker["shards"]:
            path = files[shard["file"]]
            if sha256(path) == shard["sha256"]:
                names = pq.ParquetFile(path).read(["video_id", "clip_id"]).to_pydict()
                for row, (video, clip) in enumerate(zip(names["video_id"], names["clip_id"], strict=True)):
                    found.setdefault(video, {})[clip] = path, row
        wanted: dict[str, set[str]] = {}
        for clip in clips:
            wanted.setdefault(clip.video_id, set()).add(clip.clip_id)
        for video, rows in found.items():
            if rows.keys() == wanted.get(video):  # with one more or one less, others would be read together
                self._places |= rows

    def __contains__(self, batch: Batch) -> bool:
        return all(clip.clip_id in self._places for clip in batch.clips)

    def rows(self, batch: Batch) -> Rows:
        """Those of a batch that is in here, with what the clips table says of its clips now."""
        clips = batch.clips
        parts = [_table(path).slice(row, 1) for path, row in (self._places[clip.clip_id] for clip in clips)]
        made = pa.concat_tables(parts)
        arrays = {name: made[name] for name in self._schema.names} | of_the_table(clips)
        return Rows(pa.table([arrays[name] for name in self._schema.names], self._schema), {})


@lru_cache(maxsize=2)
def _table(path: Path) -> pa.Table:
    return pq.ParquetFile(path).read()
