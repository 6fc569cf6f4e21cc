"""From examples to the batches of one stage: which codes are the target, which the condition, cut to its window."""

from collections.abc import Iterator

import torch
from torch import Tensor

from v2meow.config import Recipe, StageName
from v2meow.data.dataset import Examples, order
from v2meow.model.lm import Conditions
from v2meow.train.loop import Batch, drop_conditions


def make_batch(recipe: Recipe, stage: StageName, examples: Examples, rows: Tensor, offset: float = 0.0) -> Batch:
    """The batch of `rows`, beginning `offset` seconds into the clips and one window of the stage long."""
    window = recipe.stage(stage).window_seconds
    kc = recipe.stages.coarse_levels

    def cut(frames: Tensor, rate: float) -> Tensor:
        """[N, …, T] → [B, …, window * rate]."""
        first = round(offset * rate)
        return frames[rows][..., first : first + round(window * rate)]

    codes, ids = cut(examples.codes, recipe.codec.rate), cut(examples.semantic, recipe.semantic_ids.rate)
    if stage == "coarse":
        return Batch(codes[:, :kc], Conditions(prefix=ids))
    if stage == "fine":
        return Batch(codes[:, kc:], Conditions(prefix=codes[:, :kc]))
    visual = tuple(
        cut(features.transpose(1, 2), extractor.rate).transpose(1, 2)
        for features, extractor in zip(examples.visual, recipe.visual, strict=True)
    )
    return Batch(ids, Conditions(visual=visual, joint=examples.joint[rows]))


def training_batches(recipe: Recipe, stage: StageName, examples: Examples) -> Iterator[Batch]:
    """Batches without end, with random windows and dropped conditions: a pure function of the recipe's seed."""
    config = recipe.stage(stage)
    spare = recipe.data.clip_seconds - config.window_seconds
    grid = 1 / recipe.semantic_ids.rate  # windows begin where a semantic id begins
    for step, rows in order(len(examples), config.batch, recipe.seed):
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        offset = int(torch.randint(0, round(spare / grid) + 1, (), generator=generator)) * grid
        yield drop_conditions(make_batch(recipe, stage, examples, rows, offset), config, generator)


def held_out_batches(recipe: Recipe, stage: StageName, examples: Examples) -> Iterator[Batch]:
    """Every example once, its first window, all conditions kept."""
    for rows in torch.arange(len(examples)).split(recipe.stage(stage).batch):
        yield make_batch(recipe, stage, examples, rows)
