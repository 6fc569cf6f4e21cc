"""The step `train STAGE`: examples in, a model folder out."""

import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import torch

from v2meow.config import Recipe, StageConfig, StageName, TrainConfig
from v2meow.data.dataset import Examples, read_examples
from v2meow.files import write_json
from v2meow.model.io import save_stage
from v2meow.model.lm import TokenLM, stage_spec
from v2meow.preempt import Asked, Interrupted, never, stoppable
from v2meow.progress import progress
from v2meow.train.batches import held_out_batches, training_batches
from v2meow.train.checkpoint import CHECKPOINTS, CheckpointError, Checkpoints, fingerprint
from v2meow.train.loop import Batch, StepReport, held_out_loss, train
from v2meow.train.speed import peak_rate
from v2meow.train.spikes import Point, ReturnPoint, SpikeGuard, TrainingError
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

    A training that was killed goes on from its last checkpoint, to the same weights. SIGTERM ends it after the step
    under way with a checkpoint, and with Interrupted (not so under Ray). How fast it was is written to
    reports/train_STAGE.json: in the model folder it would give the same model another hash every time.
    """
    if together(recipe):
        from v2meow.train import ray_trainer  # Ray is an extra, and its import takes seconds

        return ray_trainer.run(stage, recipe, workspace)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    checkpoints = Checkpoints(workspace / CHECKPOINTS / stage, fingerprint(recipe, stage, workspace, device))
    with stoppable() as asked:
        try:
            trained = train_stage(stage, recipe, workspace, device, Workers(), checkpoints, asked)
        finally:
            checkpoints.finish()
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
    stage: StageName,
    recipe: Recipe,
    workspace: Path,
    device: torch.device,
    workers: Workers,
    keeper: Keeper,
    asked: Asked = never,
) -> Trained:
    """Train one stage together with the other workers, of whom the first has the bar and all have the result.

    When `asked` to stop, it does so after the step under way and a checkpoint, with Interrupted.
    """
    examples = read_examples(recipe, workspace, "train")
    held_out = read_examples(recipe, workspace, "holdout")
    config = within_epochs(recipe.stage(stage), len(examples))

    def begin() -> TrainState:
        torch.manual_seed(recipe.seed)
        model = make_model(recipe, stage, examples).to(device)
        workers.place(model)
        return TrainState(model, config, recipe.seed)

    state, curve, guard = _begun(begin, recipe.train, keeper)
    batches = partial(training_batches, recipe, stage, examples)
    reports = _train(state, batches, config, keeper, curve, guard, workers, asked)
    by_level = held_out_loss(state.model, _unless(asked, stage, held_out_batches(recipe, stage, held_out)))
    parameters = sum(parameter.numel() for parameter in state.model.parameters())
    figures = {"parameters": parameters, "train_loss": _last_loss(stage, curve), "holdout_loss": float(by_level.mean())}
    metrics = {**figures, "holdout_loss_by_level": by_level.tolist(), "curve": curve}
    return Trained(state.model, metrics, {"device": device.type, **_speed(reports)})


def _begun(
    begin: Callable[[], TrainState], config: TrainConfig, keeper: Keeper
) -> tuple[TrainState, list[Point], SpikeGuard]:
    """The state to go on from and what belongs to it: that of the newest checkpoint, where it allows it."""
    state = begin()
    stage = state.model.spec.name
    guard = SpikeGuard(stage, config)
    try:
        curve: list[Point] | None = keeper.resume(state)
    except CheckpointError as reason:
        print(f"train {stage} starts afresh: {reason}", file=sys.stderr)
        return state, [], guard
    if curve is None:
        return state, [], guard
    if not guard.follow(curve):
        print(f"train {stage} starts afresh: train.on_spike or spike_factor was another one before", file=sys.stderr)
        return begin(), [], SpikeGuard(stage, config)
    print(f"train {stage} goes on after {state.step} steps", file=sys.stderr)
    return state, curve, guard


def _train(
    state: TrainState,
    batches: Callable[[int], Iterator[Batch]],
    config: StageConfig,
    keeper: Keeper,
    curve: list[Point],
    guard: SpikeGuard,
    workers: Workers,
    asked: Asked,
) -> list[StepReport]:
    """Take `state` to the last step, with a bar and checkpoints; `curve` grows. The reports of this process."""
    reports: list[StepReport] = []
    stage, kept = state.model.spec.name, ReturnPoint(state) if guard.goes_back else None
    with progress(f"train {stage}", config.steps, quiet=workers.rank > 0) as bar:
        bar.done = state.step

        def on_step(report: StepReport) -> None:
            bar.advance(note=_note(report))
            curve.append(_point(report))
            reports.append(report)
            stop = asked()
            if stop or (state.step % config.checkpoint_steps == 0 and state.step < config.steps):
                keeper.save(state, curve)
                if kept:
                    kept.keep(state)
            if stop:
                raise Interrupted(f"train {stage} stopped after {state.step} steps: start it again to go on")

        def go_back(step: int) -> Iterator[Batch]:
            assert kept is not None  # only a guard that goes back asks for it
            kept.restore(state)
            del curve[state.step :]
            guard.go_back(step, curve)
            bar.done = state.step
            return batches(state.step)

        peak = peak_rate(state.device, torch.bfloat16 if config.bfloat16 else torch.float32)
        train(state, batches(state.step), config, peak, on_step, workers, guard, go_back)
    return reports


def _note(report: StepReport) -> str:
    left_out = "  update left out" if report.skipped else ""
    return f"loss {report.loss:.3f}  {report.tokens_s:.3g} tokens/s  MFU {report.mfu:.0%}{left_out}"


def _point(report: StepReport) -> Point:
    """The report's place on the loss curve; JSON has no NaN."""
    figures = {"loss": report.loss, "gradient_norm": report.gradient_norm}
    numbers = {name: value if math.isfinite(value) else None for name, value in figures.items()}
    return {"step": report.step, **numbers} | ({"skipped": True} if report.skipped else {})


def _last_loss(stage: StageName, curve: list[Point]) -> float:
    """That of the last step whose update was made."""
    losses = [point["loss"] for point in curve if not point.get("skipped")]
    if not losses:
        raise TrainingError(
            f"train {stage}: no update was made in {len(curve)} steps: lower stages.{stage}.learning_rate"
        )
    return losses[-1]


def _unless(asked: Asked, stage: StageName, batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches, as long as nobody asks to stop: there may be minutes of them."""
    for batch in batches:
        if asked():
            raise Interrupted(f"train {stage} stopped while it measured its held-out loss: start it again to go on")
        yield batch


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
