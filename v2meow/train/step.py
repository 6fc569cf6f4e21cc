"""The step `train STAGE`: examples in, a model folder out."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from v2meow.config import Recipe, StageConfig, StageName
from v2meow.data.dataset import Examples, read_examples
from v2meow.model.io import save_stage
from v2meow.model.lm import TokenLM, stage_spec
from v2meow.preempt import stoppable
from v2meow.train.batches import held_out_batches, training_batches
from v2meow.train.checkpoint import CHECKPOINTS, Checkpoints, fingerprint
from v2meow.train.course import Course, Keeper, Surroundings
from v2meow.train.reports import write_reports
from v2meow.train.spikes import TrainingError
from v2meow.train.state import TrainState
from v2meow.train.watch import Watcher, watchers
from v2meow.train.workers import Workers


@dataclass(frozen=True)
class Trained:
    """A trained model and what is told of it: `speed` depends on the machine, `metrics` do not. Both have a curve."""

    model: TokenLM
    metrics: dict[str, Any]
    speed: dict[str, Any]


def run(stage: StageName, recipe: Recipe, workspace: Path) -> dict[str, Any]:
    """Train one stage on the training split and write models/STAGE; its metrics hold the loss curve.

    A training that was killed goes on from its last checkpoint, to the same weights. SIGTERM ends it after the step
    under way with a checkpoint, and with Interrupted. How fast it was is written to reports/train_STAGE.json: in the
    model folder it would give the same model another hash every time.
    """
    if together(recipe):
        from v2meow.train import ray_trainer  # Ray is an extra, and its import takes seconds

        return ray_trainer.run(stage, recipe, workspace)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    checkpoints = Checkpoints(workspace / CHECKPOINTS / stage, fingerprint(recipe, stage, workspace, device))
    with stoppable() as asked:
        try:
            workers = Workers(asked=asked)
            trained = train_stage(stage, recipe, workspace, device, workers, checkpoints, watchers(workspace, stage))
        finally:
            checkpoints.finish()
        save_stage(workspace / "models" / stage, trained.model, trained.metrics)
        figures = write_reports(stage, workspace, trained.metrics, trained.speed)
        checkpoints.discard()
    return figures


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
    stage: StageName,
    recipe: Recipe,
    workspace: Path,
    device: torch.device,
    workers: Workers,
    keeper: Keeper,
    watchers: Sequence[Watcher] = (),
) -> Trained:
    """Train one stage together with the other workers, of whom the first is watched and all have the result.

    When they are asked to stop, they do so after the step under way and a checkpoint, with Interrupted.
    """
    examples = read_examples(recipe, workspace, "train")
    held_out = read_examples(recipe, workspace, "holdout")
    config = within_epochs(recipe.stage(stage), len(examples))

    def begin() -> TrainState:
        torch.manual_seed(recipe.seed)
        model = make_model(recipe, stage, examples).to(device)
        workers.place(model)
        return TrainState(model, config, recipe.seed)

    batches = partial(training_batches, recipe, stage, examples)
    held_out_once = partial(held_out_batches, recipe, stage, held_out)
    around = Surroundings(batches, held_out_once, workers, keeper, watchers if workers.rank == 0 else ())
    course = Course(begin, config, recipe.train, around)
    course.run()
    return Trained(course.state.model, _metrics(course, config), {"device": device.type, **course.history.speed()})


def _metrics(course: Course, config: StageConfig) -> dict[str, Any]:
    """What there is to say of the model; its loss on what is held out is measured now."""
    history, by_level = course.history, course.held_out_loss()
    metrics: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in course.state.model.parameters()),
        "train_loss": history.last_loss,
        "holdout_loss": float(by_level.mean()),
        "holdout_loss_by_level": by_level.tolist(),
        "curve": history.curve,
    }
    if config.keep_best:
        if history.lowest is None:
            raise TrainingError(f"train {course.state.model.spec.name}: no held-out loss was a number")
        metrics["best_step"] = history.lowest["step"]
    return metrics


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
