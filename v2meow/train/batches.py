"""From examples to the batches of one stage: which codes are the target, which the condition, cut to its window.

Legend: B batch, K levels, T frames.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from v2meow.config import Recipe, StageName
from v2meow.data.dataset import Examples, order
from v2meow.model.lm import Conditions
from v2meow.model.patterns import PARALLEL
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
    if stage == "fine":
        return Batch(codes[:, kc:], Conditions(prefix=codes[:, :kc]))
    visual = tuple(
        cut(features.transpose(1, 2), extractor.rate).transpose(1, 2)
        for features, extractor in zip(examples.visual, recipe.visual, strict=True)
    )
    if stage == "coarse":
        return Batch(codes[:, :kc], Conditions(visual=visual if recipe.stages.coarse_sees_video else (), prefix=ids))
    return Batch(ids, Conditions(visual=visual, joint=examples.joint[rows]))


def training_batches(recipe: Recipe, stage: StageName, examples: Examples, first_step: int = 0) -> Iterator[Batch]:
    """Batches from `first_step` on without end, with random windows and dropped conditions.

    A batch is a pure function of the recipe's seed and its step.
    """
    config = recipe.stage(stage)
    spare = recipe.data.clip_seconds - config.window_seconds
    grid = 1 / recipe.semantic_ids.rate  # windows begin where a semantic id begins
    for step, rows in order(len(examples), config.batch, recipe.seed, first_step):
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        offset = int(torch.randint(0, round(spare / grid) + 1, (), generator=generator)) * grid
        batch = drop_conditions(make_batch(recipe, stage, examples, rows, offset), config, generator)
        if config.layout == PARALLEL:
            _, levels, frames = batch.codes.shape
            drawn = torch.randint(0, levels, (len(rows),), generator=generator).tolist()
            batch.hidden = torch.stack([hide(level, levels, frames, generator) for level in drawn])
        yield batch


def held_out_batches(recipe: Recipe, stage: StageName, examples: Examples) -> Iterator[Batch]:
    """Every example once, its first window, all conditions kept.

    In layout parallel once for each level, hidden in the same places in every run: losses that differ by the luck
    of the draw could not be compared, and a level that nobody drew would have none.
    """
    for rows in torch.arange(len(examples)).split(recipe.stage(stage).batch):
        batch = make_batch(recipe, stage, examples, rows)
        if recipe.stage(stage).layout != PARALLEL:
            yield batch
            continue
        _, levels, frames = batch.codes.shape
        for level in range(levels):
            randoms = [torch.Generator().manual_seed(row * levels + level) for row in rows.tolist()]
            hidden = torch.stack([hide(level, levels, frames, random) for random in randoms])
            yield Batch(batch.codes, batch.conditions, hidden)


def hide(level: int, levels: int, frames: int, random: torch.Generator) -> Tensor:
    """Which codes [K, T] of one example are hidden while `level` is learnt (SoundStorm, arXiv 2305.09636, section 3).

    Levels below are visible, levels above are hidden, and of the level itself a share of cos(pi / 2 u) of the frames,
    u uniform: what decoding leaves hidden after a share u of its passes. Before a frame t all is visible, like music
    that a window continues. Half of the examples have t = 0, the others a uniform one: the first window of a piece
    has nothing to continue, and with a uniform t alone it would be met once in T examples.
    """
    continues, place, u = torch.rand(3, generator=random).tolist()
    first = int(place * frames) if continues < 0.5 else 0
    fresh = frames - first
    count = max(1, round(math.cos(math.pi / 2 * u) * fresh))
    hidden = torch.zeros(levels, frames, dtype=torch.bool)
    hidden[level + 1 :, first:] = True
    hidden[level, first + torch.randperm(fresh, generator=random)[:count]] = True
    return hidden
