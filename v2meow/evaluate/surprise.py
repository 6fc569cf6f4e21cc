"""How likely are a model's ids and codes to the model itself? Finds pieces that were damaged on their way.

A wrong id sounds like a wrong note, which no embedding of whole clips hears; to the stage that made the others it is a
great surprise, and so is what had to follow it. Its own real held-out codes tell how much surprise is usual: a model
that is less sure of everything is not worse for it.

Legend: N pieces, K levels, T frames.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from v2meow.config import STAGES, Recipe, StageName
from v2meow.data.dataset import Examples
from v2meow.evaluate.material import Music
from v2meow.model.io import load_stage
from v2meow.model.lm import TokenLM, token_losses
from v2meow.train.batches import hide, make_batch
from v2meow.train.loop import Batch


@torch.inference_mode()
def surprise(folder: Path, recipe: Recipe, examples: Examples, music: Music) -> dict[StageName, np.ndarray]:
    """Nats a code [N] of each stage of the bundle `folder`, given the picture, no prompt, and the codes before it.

    One forward pass; where a window is shorter than the clip, one at the clip's beginning and one at its end.
    """
    made = replace(examples, semantic=music.ids[:, None], codes=music.codes)
    found: dict[StageName, np.ndarray] = {}
    for name in STAGES:
        model = load_stage(folder / name)
        spare = recipe.data.clip_seconds - recipe.stage(name).window_seconds
        offsets = [0.0, spare] if spare > 0 else [0.0]
        parts = [
            np.mean([_losses(model, _batch(recipe, name, made, rows, offset), rows) for offset in offsets], axis=0)
            for rows in torch.arange(len(made)).split(recipe.evaluate.batch)
        ]
        found[name] = np.concatenate(parts)
    return found


def _batch(recipe: Recipe, name: StageName, made: Examples, rows: Tensor, offset: float) -> Batch:
    batch = make_batch(recipe, name, made, rows, offset)
    batch.conditions.joint = None
    return batch


def _losses(model: TokenLM, batch: Batch, rows: Tensor) -> np.ndarray:
    """Mean over all codes of each piece; in layout parallel, over those that are hidden in one pass a level."""
    layout = model.layout(batch.codes.shape[2])
    if model.causal:
        return token_losses(model(batch.codes, batch.conditions), batch.codes, layout).mean((1, 2)).numpy()
    _, levels, frames = batch.codes.shape
    found = []
    for level in range(levels):
        randoms = [torch.Generator().manual_seed(row * levels + level) for row in rows.tolist()]
        hidden = torch.stack([hide(level, levels, frames, random) for random in randoms])
        losses = token_losses(model(batch.codes, batch.conditions, hidden), batch.codes, layout)[:, level]
        found.append((losses * hidden[:, level]).sum(1) / hidden[:, level].sum(1))
    return torch.stack(found).mean(0).numpy()
