"""Extraction by Ray Data: a pool of processes for decoding, and one for each extractor.

A row of the data set is a batch: what is computed together does not depend on how many processes there are. All
machines of the cluster see the workspace under the same path. Finished rows are few bytes, and this process alone
writes them.
"""

from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import ray
import torch
from ray.data import ActorPoolStrategy, DataContext

from v2meow.cluster import connected
from v2meow.config import Recipe
from v2meow.data.extract.columns import Extract, Rows, loaders, rows
from v2meow.data.extract.media import read_batch, without_frames
from v2meow.data.extract.plan import Batch
from v2meow.media import Reader

Row = dict[str, Any]  # "batch", then "media" and "columns" so far, at last "rows" alone


def encode(recipe: Recipe, workspace: Path, batches: Iterable[Batch]) -> Generator[Rows]:
    """What becomes of each batch, in their order. Where there is no cluster to connect to, Ray starts here."""
    with connected():
        for row in _dataset(recipe, workspace.resolve(), batches).iter_rows():
            yield row["rows"]


def _dataset(recipe: Recipe, workspace: Path, batches: Iterable[Batch]) -> Any:
    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.issue_detectors_config.detectors = []
    items = [{"batch": batch} for batch in batches]
    load = loaders(recipe, workspace)
    pool = _pool(recipe, pools=len(load) + 1)
    dataset: Any = ray.data.from_items(items, override_num_blocks=len(items))  # Any: its types know no classes
    dataset = dataset.map(_Read, fn_constructor_args=(recipe, workspace), **(pool | {"num_gpus": 0}))
    for index, (name, load_one) in enumerate(load.items()):
        dataset = dataset.map(_Encode, fn_constructor_args=(name, load_one, index), **pool)
    return dataset.map(_finish, fn_args=(recipe,), num_cpus=pool["num_cpus"])


def _pool(recipe: Recipe, pools: int) -> dict[str, Any]:
    """Options of a pool. On a small machine processes share cores, for none of them may wait for another's to end."""
    resources, processes = ray.cluster_resources(), recipe.extract.workers * pools
    return {
        "compute": ActorPoolStrategy(size=recipe.extract.workers),
        "num_cpus": min(1.0, int(100 * resources.get("CPU", 1) / (processes + 1)) / 100),
        "num_gpus": min(recipe.extract.gpus, int(100 * resources.get("GPU", 0) / processes) / 100),
    }


class _Read:
    """Decodes batches in a bounded child process."""

    def __init__(self, recipe: Recipe, workspace: Path) -> None:
        self.recipe, self.workspace, self.reader = recipe, workspace, Reader(recipe.media)

    def __call__(self, row: Row) -> Row:
        return {"media": read_batch(self.recipe, self.workspace, self.reader, row["batch"]), "columns": {}}


class _Encode:
    """Adds a column to batches. Frames for the visual extractor `index` end their way here."""

    def __init__(self, name: str, load: Callable[[], Extract], index: int) -> None:
        torch.set_num_threads(1)  # as in one process: see `local.one_thread`
        self.name, self.extract, self.index = name, load(), index

    def __call__(self, row: Row) -> Row:
        columns = row["columns"] | {self.name: self.extract(row["media"])}
        return {"media": without_frames(row["media"], self.index), "columns": columns}


def _finish(row: Row, recipe: Recipe) -> Row:
    return {"rows": rows(recipe, row["media"], row["columns"])}
