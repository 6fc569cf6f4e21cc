"""The step `train STAGE`: examples in, a model folder out."""

import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from v2meow.config import Recipe, StageConfig, StageName
from v2meow.data.dataset import Examples, read_examples
from v2meow.files import write_json
from v2meow.model.io import save_stage
from v2meow.model.lm import TokenLM, stage_spec
from v2meow.progress import progress
from v2meow.train.batches import held_out_batches, training_batches
from v2meow.train.checkpoint import CHECKPOINTS, CheckpointError, Checkpoints, fingerprint
from v2meow.train.loop import Batch, StepReport, held_out_loss, train
from v2meow.train.speed import peak_rate
from v2meow.train.state import TrainState


def run(stage: StageName, recipe: Recipe, workspace: Path) -> dict[str, Any]:
    """Train one stage on the training split and write models/STAGE; its metrics hold the loss curve.

    A training that was killed goes on from its last checkpoint, to the same weights. How fast it was is written to
    reports/train_STAGE.json: in the model folder it would give the same model another hash every time.
    """
    examples = read_examples(recipe, workspace, "train")
    held_out = read_examples(recipe, workspace, "holdout")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(recipe.seed)
    config = within_epochs(recipe.stage(stage), len(examples))
    state = TrainState(make_model(recipe, stage, examples).to(device), config)
    checkpoints = Checkpoints(workspace / CHECKPOINTS / stage, fingerprint(recipe, stage, workspace, device))
    curve = _resumed(stage, state, checkpoints)
    reports = _train(state, training_batches(recipe, stage, examples, state.step), config, checkpoints, curve)
    by_level = held_out_loss(state.model, held_out_batches(recipe, stage, held_out))
    parameters = sum(parameter.numel() for parameter in state.model.parameters())
    figures = {"parameters": parameters, "train_loss": curve[-1]["loss"], "holdout_loss": float(by_level.mean())}
    metrics = {**figures, "holdout_loss_by_level": by_level.tolist(), "curve": curve}
    save_stage(workspace / "models" / stage, state.model, metrics)
    speed = {"device": device.type, **_speed(reports)}
    write_json(workspace / "reports" / f"train_{stage}.json", speed)
    checkpoints.discard()
    return figures | speed


def _resumed(stage: StageName, state: TrainState, checkpoints: Checkpoints) -> list[dict[str, float]]:
    """The loss curve up to the step that `state` is brought to, where a checkpoint allows it."""
    try:
        curve = checkpoints.resume(state)
    except CheckpointError as reason:
        print(f"train {stage} starts afresh: {reason}", file=sys.stderr)
        return []
    if curve is None:
        return []
    print(f"train {stage} goes on after {state.step} steps", file=sys.stderr)
    return curve


def _train(
    state: TrainState,
    batches: Iterator[Batch],
    config: StageConfig,
    checkpoints: Checkpoints,
    curve: list[dict[str, float]],
) -> list[StepReport]:
    """Take `state` to the last step, with a bar and checkpoints; `curve` grows. The reports of this process."""
    reports: list[StepReport] = []
    with progress(f"train {state.model.spec.name}", config.steps) as bar:
        bar.done = state.step

        def on_step(report: StepReport) -> None:
            bar.advance(note=f"loss {report.loss:.3f}  {report.tokens_s:.3g} tokens/s  MFU {report.mfu:.0%}")
            curve.append({"step": report.step, "loss": report.loss, "gradient_norm": report.gradient_norm})
            reports.append(report)
            if state.step % config.checkpoint_steps == 0 and state.step < config.steps:
                checkpoints.save(state, curve)

        peak = peak_rate(state.device, torch.bfloat16 if config.bfloat16 else torch.float32)
        train(state, batches, config, peak, on_step)
    return reports


def within_epochs(config: StageConfig, examples: int) -> StageConfig:
    """The config with `steps` cut so that no example is seen more than `max_epochs` times."""
    return replace(config, steps=min(config.steps, math.ceil(config.max_epochs * examples / config.batch)))


def make_model(recipe: Recipe, stage: StageName, examples: Examples) -> TokenLM:
    """A fresh model whose visual inputs are normalised by the training split's mean and spread."""
    widths = tuple(features.shape[2] for features in examples.visual)
    model = TokenLM(stage_spec(recipe, stage, visual_widths=widths, joint_width=examples.joint.shape[1]))
    if model.spec.visual:
        frames = [features.flatten(0, 1) for features in examples.visual]
        model.visual_mean.copy_(torch.cat([rows.mean(0) for rows in frames]))
        model.visual_std.copy_(torch.cat([rows.std(0) for rows in frames]).clamp(min=1e-3))
    return model


def _speed(reports: list[StepReport]) -> dict[str, float]:
    """Medians over the steps, to the digits that they are good for."""
    tokens_s, mfu = (median(getattr(report, name) for report in reports) for name in ("tokens_s", "mfu"))
    return {"tokens_s": float(f"{tokens_s:.3g}"), "mfu": float(f"{mfu:.2g}")}
