"""The step `train STAGE`: examples in, a model folder out."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from v2meow.config import Recipe, StageConfig, StageName
from v2meow.data.dataset import Examples, read_examples
from v2meow.model.io import save_stage
from v2meow.model.lm import TokenLM, stage_spec
from v2meow.progress import progress
from v2meow.train.batches import held_out_batches, training_batches
from v2meow.train.loop import StepReport, held_out_loss, train


def run(stage: StageName, recipe: Recipe, workspace: Path) -> dict[str, Any]:
    """Train one stage on the training split and write models/STAGE; its metrics hold the loss curve."""
    examples = read_examples(recipe, workspace, "train")
    held_out = read_examples(recipe, workspace, "holdout")
    torch.manual_seed(recipe.seed)
    model = make_model(recipe, stage, examples)
    curve: list[dict[str, float]] = []
    config = within_epochs(recipe.stage(stage), len(examples))
    with progress(f"train {stage}", config.steps) as bar:

        def on_step(report: StepReport) -> None:
            bar.advance(note=f"loss {report.loss:.3f}")
            curve.append({"step": report.step, "loss": report.loss, "gradient_norm": report.gradient_norm})

        train(model, training_batches(recipe, stage, examples), config, on_step)
    by_level = held_out_loss(model, held_out_batches(recipe, stage, held_out))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    figures = {"parameters": parameters, "train_loss": curve[-1]["loss"], "holdout_loss": float(by_level.mean())}
    metrics = {**figures, "holdout_loss_by_level": by_level.tolist(), "curve": curve}
    save_stage(workspace / "models" / stage, model, metrics)
    return figures


def within_epochs(config: StageConfig, examples: int) -> StageConfig:
    """The config with `steps` cut so that no example is seen more than `max_epochs` times."""
    return replace(config, steps=min(config.steps, math.ceil(config.max_epochs * examples / config.batch)))


def make_model(recipe: Recipe, stage: StageName, examples: Examples) -> TokenLM:
    """A fresh model whose visual inputs are normalised by the training split's mean and spread."""
    widths = tuple(features.shape[2] for features in examples.visual)
    model = TokenLM(stage_spec(recipe, stage, widths))
    if model.spec.visual:
        frames = [features.flatten(0, 1) for features in examples.visual]
        model.visual_mean.copy_(torch.cat([rows.mean(0) for rows in frames]))
        model.visual_std.copy_(torch.cat([rows.std(0) for rows in frames]).clamp(min=1e-3))
    return model
