"""Catalogues of random examples on disk, as `extract` writes them, and trainings on them that are killed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny

from v2meow.config import Recipe, StageName
from v2meow.data.dataset import Examples, schema
from v2meow.data.manifest import EXAMPLES
from v2meow.data.shards import write_marker
from v2meow.train import step
from v2meow.train.loop import Batch

# A training that takes a while, by two workers of a cluster that soon sees who is missing.
CHANGES = {
    "stages.coarse.steps": 40,
    "stages.coarse.max_epochs": 1000,
    "stages.coarse.batch": 32,
    "stages.coarse.width": 64,
    "stages.coarse.ema": 0.9,
    "stages.coarse.checkpoint_steps": 5,
    "train.cpus": 1.0,
}
TWO = {"train.workers": 2, "train.min_workers": 2}
QUICK = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
}


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


@contextmanager
def dying_after(last: int) -> Iterator[None]:
    """Inside the block a training dies when it asks for the batch of a step after `last`."""
    batches = step.training_batches

    def dying(recipe: Recipe, stage: StageName, examples: Examples, first_step: int = 0) -> Iterator[Batch]:
        for number, batch in enumerate(batches(recipe, stage, examples, first_step), first_step):
            if number > last:
                raise KeyboardInterrupt
            yield batch

    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(step, "training_batches", dying)
        yield
