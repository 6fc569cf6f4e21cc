"""Catalogues of random examples on disk, as `extract` writes them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import tiny

from v2meow.config import Recipe
from v2meow.data.dataset import schema
from v2meow.data.manifest import EXAMPLES
from v2meow.data.shards import write_marker


def write_examples(workspace: Path, recipe: Recipe, train: int = 5, held_out: int = 3) -> Path:
    """The examples of a workspace, which is made; the workspace."""
    examples = tiny.examples(recipe, train + held_out)
    rows = [
        {
            "clip_id": examples.clip_id[row],
            "video_id": examples.video_id[row],
            "split": "train" if row < train else "holdout",
            "caption": "",
            "attributes": "{}",
            "semantic": examples.semantic[row].flatten().tolist(),
            "codes": examples.codes[row].flatten().tolist(),
            "visual_motion": examples.visual[0][row].flatten().tolist(),
            "joint": examples.joint[row].tolist(),
        }
        for row in range(train + held_out)
    ]
    (workspace / EXAMPLES).mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema(recipe)), workspace / EXAMPLES / "part-00000.parquet")
    write_marker(workspace / EXAMPLES)
    return workspace
