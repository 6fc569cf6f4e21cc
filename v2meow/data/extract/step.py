"""The step itself: what is missing is extracted, shard by shard, then all of it becomes data/examples at once."""

import os
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from v2meow.config import Recipe
from v2meow.data.extract import local
from v2meow.data.extract.columns import Rows
from v2meow.data.extract.known import Known
from v2meow.data.extract.partial import Partial
from v2meow.data.extract.plan import Batch, make_shards
from v2meow.data.quarantine import usable_clips
from v2meow.progress import progress

Encode = Callable[[Recipe, Path, Iterable[Batch]], Generator[Rows]]


def run(recipe: Recipe, workspace: Path) -> dict[str, Any]:
    """Write data/examples from the clips table and the fitted extractors.

    A run that was killed is gone on with: at most the shards that were not yet written are made again. Of videos that
    the last examples hold, as they would be made now, these rows are taken. A clip that cannot be read is listed in
    failed.csv and left out; one in quarantine is left out. Raises OSError when the disk is full.
    """
    clips = usable_clips(workspace)
    shards, partial, known = make_shards(recipe, clips), Partial(recipe, workspace), Known(recipe, workspace, clips)
    missing = [shard for shard in shards if not partial.holds(shard.number)]
    with progress("extract", sum(map(len, shards))) as bar:
        bar.advance(sum(map(len, shards)) - sum(map(len, missing)))
        batches = [batch for shard in missing for batch in shard.batches if batch not in known]
        with closing(chosen(recipe)(recipe, workspace, batches)) as encoded:
            for shard in missing:
                done = []
                for batch in shard.batches:
                    done.append(known.rows(batch) if batch in known else next(encoded))
                    bar.advance(len(batch))
                partial.write(shard.number, done)
    taken = sum(len(batch) for shard in missing for batch in shard.batches if batch in known)
    figures = {"taken": taken, "shards": len(shards), "shards_kept": len(shards) - len(missing)}
    return partial.finish(len(shards)) | figures


def chosen(recipe: Recipe) -> Encode:
    """Ray Data where the recipe or the environment asks for it and it is installed, else this process."""
    asked = recipe.extract.workers > 1 or "RAY_ADDRESS" in os.environ
    if not asked or find_spec("ray") is None:
        return local.encode
    from v2meow.data.extract import on_ray

    return on_ray.encode
