"""Extraction in this process: each thread decodes a batch in a bounded child, then encodes it, so that both overlap."""

import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from v2meow.config import Recipe
from v2meow.data.extract.columns import Rows, loaders, rows
from v2meow.data.extract.media import read_batch
from v2meow.data.extract.plan import Batch
from v2meow.data.reading import map_readers
from v2meow.media import Reader

_MOST_WORKERS = 8  # each has a decoding process, and holds the media of a batch


def encode(recipe: Recipe, workspace: Path, batches: Iterable[Batch]) -> Generator[Rows]:
    """What becomes of each batch, in their order."""
    columns = {name: load() for name, load in loaders(recipe, workspace).items()}

    def work(reader: Reader, batch: Batch) -> Rows:
        media = read_batch(recipe, workspace, reader, batch)
        return rows(recipe, media, {name: extract(media) for name, extract in columns.items()})

    workers = min(_MOST_WORKERS, max(2, len(os.sched_getaffinity(0))))
    with one_thread():
        yield from map_readers(recipe.media, work, batches, workers)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread for each batch: a sum over several has other last bits, and gains nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
