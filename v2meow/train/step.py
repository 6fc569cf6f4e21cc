"""The step `train STAGE`: examples in, a model folder out."""

import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import torch

from v2meow.config import Recipe, StageConfig, StageName
from v2meow.data.dataset import Examples, read_examples
from v2meow.files import write_json
from v2meow.model.io import save_stage
from v2meow.model.lm import TokenLM, stage_spec
from v2meow.progress import progress
from v2meow.train.batches import held_out_batches, training_batches
from v2meow.train.checkpoint import CHECKPOINTS, CheckpointError, Checkpoints, fingerprint
from v2meow.train.loop import Batch, StepReport, TrainingError, held_out_loss, train
from v2meow.train.speed import peak_rate
from v2meow.train.state import TrainState
from v2meow.train.workers import Workers

SPEED = "reports/train_{stage}.json"


class Keeper(Protocol):
    """Where a training's state is kept, for all its workers."""

    def resume(self, state: TrainState) -> Any:
        """Bring `state` to the newest checkpoint and return what was saved besides; None where there is none."""

    def save(self, state: TrainState, besides: Any) -> None:
        """Keep `state` and the JSON value `besides`."""


@dataclass(frozen=True)
class Trained:
    """A trained model and what is told of it: `speed` depends on the machine, `metrics` do not."""

    model: TokenLM
    metrics: dict[str, Any]
    speed: dict[str, Any]

    @property
    def figures(self) -> dict[str, Any]:
        """What the step prints."""
        return {key: self.metrics[key] for key in ("parameters", "train_loss", "holdout_loss")} | self.speed


def run(stage: StageName, recipe: Recipe, workspace: Path) -> dict[str, Any]:
    """Train one stage on the training split and write models/STAGE; its metrics hold the loss curve.

    A training that was killed goes on from its last checkpoint, to the same weights. How fast it was is written to
    reports/train_STAGE.json: in the model folder it would give the same model another hash every time.
    """
    if together(recipe):
        from v2meow.train import ray_trainer  # Ray is an extra, and its import takes seconds

        return ray_trainer.run(stage, recipe, workspace)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    checkpoints = Checkpoints(workspace / CHECKPOINTS / stage, fingerprint(recipe, stage, workspace, device))
    trained = train_stage(stage, recipe, workspace, device, Workers(), checkpoints)
    save_stage(workspace / "models" / stage, trained.model, trained.metrics)
    write_json(workspace / SPEED.format(stage=stage), trained.speed)
    checkpoints.discard()
    return trained.figures


def together(recipe: Recipe) -> bool:
    """Whether Ray Train is asked for: by the recipe's workers, or by a cluster that RAY_ADDRESS names.

    TrainingError where it is not installed: one worker alone would take as many times as long without a word.
    """
    asked = recipe.train.workers > 1 or "RAY_ADDRESS" in os.environ
    if asked and find_spec("ray") is None:
        raise TrainingError(
            f"{recipe.train.workers} workers are asked for and Ray is missing: install v2meow[cluster], or set "
            "train.workers and min_workers to 1 and unset RAY_ADDRESS"
        )
    return asked


def train_stage(
    stage: StageName, recipe: Recipe, workspace: Path, device: torch.device, workers: Workers, keeper: Keeper
) -> Trained:
    """Train one stage together with the other workers, of whom the first has the bar and all have the result."""
    examples = read_examples(recipe, workspace, "train")
    held_out = read_examples(recipe, workspace, "holdout")
    torch.manual_seed(recipe.seed)
    config = within_epochs(recipe.stage(stage), len(examples))
    model = make_model(recipe, stage, examples).to(device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    workers.place(model)
    state = TrainState(model, config, recipe.seed)
    curve = _resumed(stage, state, keeper)
    batches = training_batches(recipe, stage, examples, state.step)
    reports = _train(state, batches, config, keeper, curve, workers)
    by_level = held_out_loss(state.model, held_out_batches(recipe, stage, held_out))
    figures = {"parameters": parameters, "train_loss": curve[-1]["loss"], "holdout_loss": float(by_level.mean())}
    metrics = {**figures, "holdout_loss_by_level": by_level.tolist(), "curve": curve}
    return Trained(state.model, metrics, {"device": device.type, **_speed(reports)})


def _resumed(stage: StageName, state: TrainState, keeper: Keeper) -> list[dict[str, Any]]:
    """The loss curve up to the step that `state` is brought to, where a checkpoint allows it."""
    try:
        curve = keeper.resume(state)
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
    keeper: Keeper,
    curve: list[dict[str, Any]],
    workers: Workers,
) -> list[StepReport]:
    """Take `state` to the last step, with a bar and checkpoints; `curve` grows. The reports of this process."""
    reports: list[StepReport] = []
    with progress(f"train {state.model.spec.name}", config.steps, quiet=workers.rank > 0) as bar:
        bar.done = state.step

        def on_step(report: StepReport) -> None:
            bar.advance(note=f"loss {report.loss:.3f}  {report.tokens_s:.3g} tokens/s  MFU {report.mfu:.0%}")
            curve.append({"step": report.step, "loss": report.loss, "gradient_norm": report.gradient_norm})
            reports.append(report)
            if state.step % config.checkpoint_steps == 0 and state.step < config.steps:
                keeper.save(state, curve)

        peak = peak_rate(state.device, torch.bfloat16 if config.bfloat16 else torch.float32)
        train(state, batches, config, peak, on_step, workers)
    return reports


def within_epochs(config: StageConfig, examples: int) -> StageConfig:
    """The config with `steps` cut so that no example is seen more than `max_epochs` times."""
    return replace(config, steps=min(config.steps, math.ceil(config.max_epochs * examples / config.batch)))


def make_model(recipe: Recipe, stage: StageName, examples: Examples, *, measured: bool = True) -> TokenLM:
    """A fresh model whose visual inputs are normalised by the training split's mean and spread, once `measured`."""
    widths = tuple(features.shape[2] for features in examples.visual)
    model = TokenLM(stage_spec(recipe, stage, visual_widths=widths, joint_width=examples.joint.shape[1]))
    if model.spec.visual and measured:
        frames = [features.flatten(0, 1) for features in examples.visual]
        model.visual_mean.copy_(torch.cat([rows.mean(0) for rows in frames]))
        model.visual_std.copy_(torch.cat([rows.std(0) for rows in frames]).clamp(min=1e-3))
    return model


def _speed(reports: list[StepReport]) -> dict[str, float]:
    """Medians over the steps, to the digits that they are good for; none where there was no step left."""
    if not reports:
        return {}
    tokens_s, mfu = (median(getattr(report, name) for report in reports) for name in ("tokens_s", "mfu"))
    return {"tokens_s": float(f"{tokens_s:.3g}"), "mfu": float(f"{mfu:.2g}")}
