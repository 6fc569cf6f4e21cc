"""What would have been had for less: music that was not made for the picture, measured as the model's own is.

    random_track    the music of a training clip drawn by lot: as real as any, and deaf to the picture
    nearest_track   the music of the training clip whose picture is most alike: what a search engine would propose
    text_only       music made for the caption, the picture put away: what a text-to-music model would do

A model that does not beat the first follows nothing; one that does not beat the second could be a catalogue.
"""

import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from v2meow.evaluate.agreement import permutation_test
from v2meow.evaluate.material import Material, Music, compose
from v2meow.evaluate.profile import LEAST, Profile, Yardstick, nested
from v2meow.evaluate.quality import kernel_values
from v2meow.evaluate.resampling import interval
from v2meow.generate.parts import PromptError, stage_engine
from v2meow.generate.pipeline import Cascade
from v2meow.model.io import load_stage, save_stage
from v2meow.model.lm import TokenLM


def measure(material: Material, yardstick: Yardstick) -> dict[str, Any]:
    """The figures of each baseline by name; None, and the reason in `skipped`, where it cannot be had."""
    made: dict[str, Any] = {
        "random_track": describe(yardstick, yardstick.profile(random_tracks(material))),
        "nearest_track": describe(yardstick, yardstick.profile(nearest_tracks(material))),
    }
    try:
        made["text_only"] = describe(yardstick, yardstick.profile(from_text(material)))
    except PromptError as reason:
        made |= {"text_only": None, "skipped": {"text_only": str(reason)}}
    return made


def random_tracks(material: Material) -> Music:
    """The music of as many training clips, drawn by lot."""
    random = np.random.default_rng(material.recipe.seed)
    count = len(material.examples)
    return tracks(material, random.choice(len(material.train), count, replace=count > len(material.train)))


def nearest_tracks(material: Material) -> Music:
    """For each held-out clip the music of the training clip with the nearest picture."""
    taught, asked = _pooled(material.train.visual), _pooled(material.examples.visual)
    mean, spread = taught.mean(0), taught.std(0, correction=0).clamp(min=1e-4)
    return tracks(material, torch.cdist((asked - mean) / spread, (taught - mean) / spread).argmin(1).numpy())


def tracks(material: Material, rows: np.ndarray) -> Music:
    """The music of those training clips through the codec."""
    train = material.train.select(rows.tolist())
    return Music(
        waveforms=torch.cat([material.cascade.codec.decode(codes) for codes in train.codes.split(32)]),
        ids=train.semantic[:, 0],
        codes=train.codes,
    )


def from_text(material: Material) -> Music:
    """Music for the captions alone. PromptError where there are none, or the model follows no prompts."""
    if not all(caption.strip() for caption in material.examples.caption):
        raise PromptError("not every held-out clip has a caption")
    cascade, batch = (
        unseeing(material.cascade, material.bundle, material.recipe.evaluate.batch),
        material.recipe.evaluate.batch,
    )
    return compose(cascade, material.examples, batch, material.examples.caption, "score captions without pictures")


def unseeing(cascade: Cascade, folder: Path, pieces: int) -> Cascade:
    """The cascade of the bundle `folder` to which every picture is what it learnt for none, when it was dropped."""
    blind = copy.copy(cascade)
    blind.engines = dict(cascade.engines)
    blind._asked = {name: {} for name in cascade.engines}
    with TemporaryDirectory() as scratch:
        for name in cascade.engines:
            model = load_stage(folder / name)
            if model.spec.visual:
                save_stage(Path(scratch) / name, without_sight(model), {})
                blind.engines[name] = stage_engine(Path(scratch), cascade.recipe, name, pieces)
    return blind


@torch.no_grad()
def without_sight(model: TokenLM) -> TokenLM:
    """The model, changed: whatever it is shown becomes the vector that stands for a dropped video."""
    for project in model.project_visual:
        assert isinstance(project, nn.Linear)
        project.weight.zero_()
        project.bias.copy_(model.null_video)
    return model


def describe(yardstick: Yardstick, profile: Profile) -> dict[str, Any]:
    """A profile as figures under the names that the model's own have in metrics.json and its `quality`."""
    recipe, flat = yardstick.material.recipe, dict[str, Any]()
    for name, scores in profile.pairs.items():
        if len(scores) >= LEAST:
            flat[name] = vars(permutation_test(scores, recipe.evaluate.permutations, recipe.seed))
    for name, values in profile.scores.items():
        flat[name] = mean_row(values, recipe.seed)
    for name, values in profile.embeddings.items():
        if len(values) >= LEAST:
            row = mean_row(kernel_values(values, yardstick.reference[name]), recipe.seed)
            flat[f"{name}.kernel"] = {"value": row.pop("mean")} | row
    return nested(flat)


def mean_row(values: np.ndarray, seed: int) -> dict[str, Any]:
    """Mean of [N] with its 95 % interval and its count."""
    low, high = interval(values, seed)
    return {"mean": float(values.mean()), "low": low, "high": high, "count": len(values)}


def _pooled(visual: tuple[Tensor, ...]) -> Tensor:
    """Mean and spread over time of all features: [N, …]."""
    return torch.cat([part for features in visual for part in (features.mean(1), features.std(1, correction=0))], dim=1)
