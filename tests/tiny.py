"""Nano's recipe shrunk until its models train and generate in moments, and random inputs for them.

All that tests compute shapes from is set here, so that they do not change with nano.
"""

from copy import deepcopy
from typing import Any

import torch
import yaml

from v2meow.config import STAGES, Recipe, StageName, parse_recipe, recipe_path
from v2meow.data.dataset import Examples
from v2meow.encoders.visual import WIDTH
from v2meow.model.lm import Conditions, TokenLM, stage_spec

JOINT_WIDTH = 8
STAGE = {
    "layers": 2,
    "encoder_layers": 0,
    "width": 32,
    "heads": 2,
    "feed_forward": 64,
    "dropout": 0.0,
    "layout": "delay",
    "window_seconds": 2.0,
    "steps": 5,
    "batch": 4,
    "warmup_steps": 2,
    "accumulate": 1,
    "ema": 0.0,
    "checkpoint_activations": False,
    "compile": False,
    "checkpoint_steps": 2,
}
CHANGES = {
    "data.clip_seconds": 2.0,
    "data.hop_seconds": 1.0,
    "visual": [{"kind": "motion", "rate": 10.0, "size": 64}],
    "semantic_ids.rate": 25,
    "semantic_ids.mels": 64,
    "semantic_ids.clusters": 16,
    "semantic_ids.sample_frames": 1000,
    "codec.sample_rate": 16_000,
    "codec.hop": 320,
    "codec.levels": 4,
    "codec.bins": 16,
    "codec.sample_frames": 1000,
    "codec.beam": 2,
    "codec.steps": 2,
    "codec.batch": 2,
    "joint.width": JOINT_WIDTH,
    "joint.text_buckets": 64,
    "joint.steps": 3,
    "joint.batch": 4,
    "extract.batch": 4,
    "extract.shard_clips": 6,
    "stages.coarse_levels": 2,
    **{f"stages.{name}.{key}": value for name in STAGES for key, value in STAGE.items()},
    "stages.semantic.encoder_layers": 2,
    "stages.fine.window_seconds": 1.0,
    "stages.coarse_sees_video": False,
    "generate.precision": "float32",
    "generate.context_seconds": 1.0,
}


def values(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """The tiny recipe as plain values; `changes` are new values by their full keys."""
    recipe = yaml.safe_load(recipe_path("nano").read_text())
    for key, value in deepcopy({**CHANGES, **(changes or {})}).items():
        *parents, name = key.split(".")
        section = recipe
        for parent in parents:
            section = section[parent]
        section[name] = value
    return recipe


def recipe(changes: dict[str, Any] | None = None) -> Recipe:
    """The tiny recipe."""
    return parse_recipe(values(changes))


def laid_out(stage: StageName, layout: str) -> dict[str, Any]:
    """Changes that give a stage that layout."""
    changes: dict[str, Any] = {f"stages.{stage}.layout": layout}
    return changes | ({f"generate.{stage}.passes": 6} if layout == "parallel" else {})


def model(stage: StageName, layout: str = "delay", seed: int = 0, changes: dict[str, Any] | None = None) -> TokenLM:
    """A random stage in evaluation mode, far enough from its start that every input shows in its logits."""
    torch.manual_seed(seed)
    made_for = recipe(laid_out(stage, layout) | (changes or {}))
    made = TokenLM(stage_spec(made_for, stage, visual_widths=(WIDTH,), joint_width=JOINT_WIDTH))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made.eval()


def inputs(model: TokenLM, batch: int, seconds: float, seed: int = 1) -> tuple[torch.Tensor, Conditions]:
    """Random codes [B, K, T] of `seconds` and every condition that the stage takes."""
    random, spec = torch.Generator().manual_seed(seed), model.spec

    def codes(levels: int, bins: int, rate: float) -> torch.Tensor:
        return torch.randint(0, bins, (batch, levels, round(seconds * rate)), generator=random)

    target = codes(spec.target.levels, spec.target.bins, spec.target.rate)
    visual = tuple(torch.randn(batch, round(seconds * v.rate), v.width, generator=random) for v in spec.visual)
    if spec.prefix:
        return target, Conditions(visual, prefix=codes(spec.prefix.levels, spec.prefix.bins, spec.prefix.rate))
    return target, Conditions(visual=visual, joint=torch.randn(batch, spec.joint_width, generator=random))


def examples(recipe: Recipe, count: int, seed: int = 2) -> Examples:
    """Random examples of that recipe; caption and attributes are empty."""
    random = torch.Generator().manual_seed(seed)
    names = [f"{row:016x}" for row in range(count)]
    pictures = [round(recipe.data.clip_seconds * extractor.rate) for extractor in recipe.visual]
    shape = (count, recipe.codec.levels, recipe.codec_frames)
    return Examples(
        clip_id=[f"{name}-0000" for name in names],
        video_id=names,
        caption=[""] * count,
        attributes=["{}"] * count,
        semantic=torch.randint(0, recipe.semantic_ids.clusters, (count, 1, recipe.semantic_frames), generator=random),
        codes=torch.randint(0, recipe.codec.bins, shape, generator=random),
        visual=tuple(torch.randn(count, number, WIDTH, generator=random) for number in pictures),
        joint=torch.randn(count, JOINT_WIDTH, generator=random),
    )
