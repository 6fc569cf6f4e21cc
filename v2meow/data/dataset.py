"""Examples in memory, and the order in which training sees them.

The order is a pure function of (seed, step): nothing to save, the same on every machine, and it begins at any step.
Legend: N clips, K levels, T frames.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from v2meow.config import Recipe
from v2meow.data.manifest import EXAMPLES, DataError, Split
from v2meow.data.shards import read_shards


@dataclass(frozen=True, kw_only=True)
class Examples:
    """All examples of one split, in the order of their clip ids.

    semantic [N, 1, Ts], codes [N, K, T], visual: per extractor [N, V, width], joint [N, width];
    `attributes` is JSON text a clip, `caption` may be empty.
    """

    clip_id: list[str]
    video_id: list[str]
    caption: list[str]
    attributes: list[str]
    semantic: Tensor
    codes: Tensor
    visual: tuple[Tensor, ...]
    joint: Tensor

    def __len__(self) -> int:
        return len(self.clip_id)

    def select(self, rows: list[int]) -> "Examples":
        """The examples of the given row numbers."""
        picked = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                picked[field.name] = [value[row] for row in rows]
            else:
                picked[field.name] = tuple(part[rows] for part in value) if isinstance(value, tuple) else value[rows]
        return Examples(**picked)


def schema(recipe: Recipe) -> pa.Schema:
    """Columns of an examples file; arrays are flattened, their shapes follow from the recipe."""
    features = [(f"visual_{extractor.kind}", pa.list_(pa.float32())) for extractor in recipe.visual]
    text = [(name, pa.string()) for name in ("clip_id", "video_id", "split", "caption", "attributes")]
    ids = [("semantic", pa.list_(pa.int32())), ("codes", pa.list_(pa.int32()))]
    return pa.schema([*text, *ids, *features, ("joint", pa.list_(pa.float32()))])


def read_examples(recipe: Recipe, workspace: Path, split: Split) -> Examples:
    """The examples of a split. DataError when there are none, or files are not those that were extracted."""
    tables = [table.filter(pc.field("split") == split) for table in read_shards(workspace / EXAMPLES)]
    clip_ids = [clip_id for table in tables for clip_id in table["clip_id"].to_pylist()]
    if not clip_ids:
        raise DataError(f"no {split} examples in {workspace / EXAMPLES}: run `v2meow extract` first")
    rows = np.argsort(clip_ids)

    def text(name: str) -> list[str]:
        found = [value for table in tables for value in table[name].to_pylist()]
        return [found[row] for row in rows]

    def column(name: str, dtype: type) -> Tensor:
        """[N, values] of a column of lists, without a Python object for each number."""
        chunks = [chunk.flatten().to_numpy() for table in tables for chunk in table[name].chunks]
        return torch.from_numpy(np.concatenate(chunks, dtype=dtype).reshape(len(rows), -1)[rows])

    return Examples(
        **{name: text(name) for name in ("clip_id", "video_id", "caption", "attributes")},
        semantic=column("semantic", np.int64)[:, None],
        codes=column("codes", np.int64).unflatten(1, (recipe.codec.levels, -1)),
        visual=tuple(
            column(f"visual_{extractor.kind}", np.float32).unflatten(
                1, (round(recipe.data.clip_seconds * extractor.rate), -1)
            )
            for extractor in recipe.visual
        ),
        joint=column("joint", np.float32),
    )


def order(count: int, batch: int, seed: int, first_step: int = 0) -> Iterator[tuple[int, Tensor]]:
    """(step, row numbers [batch]) from `first_step` on without end: every row once an epoch, shuffled by (seed, epoch).

    Batches run on across the end of an epoch, so that catalogues smaller than a batch work too.
    """

    def shuffled(epoch: int) -> Tensor:
        return torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))

    epoch, seen = divmod(first_step * batch, count)
    rows = shuffled(epoch)[seen:]
    for step in itertools.count(first_step):
        while len(rows) < batch:
            epoch += 1
            rows = torch.cat((rows, shuffled(epoch)))
        yield step, rows[:batch]
        rows = rows[batch:]
