"""The course of one stage's training: its steps, and what is done between them.

After a step its figures are kept and shown, the held-out loss is measured where it is due, and the state is saved. All
workers do so after the same steps. Knows neither files nor clusters: `Keeper` and `Watcher` do.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from v2meow.config import StageConfig, TrainConfig
from v2meow.preempt import Interrupted
from v2meow.progress import Progress, progress
from v2meow.train.checkpoint import CheckpointError
from v2meow.train.history import History
from v2meow.train.loop import Batch, StepReport, held_out_loss, train
from v2meow.train.speed import gpu_gib, peak_rate
from v2meow.train.spikes import ReturnPoint, SpikeGuard
from v2meow.train.state import TrainState
from v2meow.train.watch import Watcher
from v2meow.train.workers import Workers


class Keeper(Protocol):
    """Where a training's state is kept, for all its workers."""

    def resume(self, state: TrainState) -> Any:
        """Bring `state` to the newest good checkpoint and return what was saved besides; None where there is none."""

    def save(self, state: TrainState, besides: Any) -> None:
        """Begin to keep `state` and the JSON value `besides`."""

    def finish(self) -> None:
        """Wait until the last one is safe."""


@dataclass(frozen=True)
class Surroundings:
    """What a training is done with: `batches` from a step on, those held out, and all who take part in it."""

    batches: Callable[[int], Iterator[Batch]]
    held_out: Callable[[], Iterator[Batch]]
    workers: Workers
    keeper: Keeper
    watchers: Sequence[Watcher]


class Course:
    """One training, from what `begin` makes or from its newest checkpoint, to its last step."""

    def __init__(
        self, begin: Callable[[], TrainState], config: StageConfig, guard: TrainConfig, around: Surroundings
    ) -> None:
        self._config, self._around = config, around
        self.state, self.history, self._guard = _begun(begin, guard, around.keeper)
        self._stage = self.state.model.spec.name
        self._return: ReturnPoint | None = None
        self._bar: Progress | None = None

    def run(self) -> None:
        """Take `state` to its last step. Interrupted when its workers were asked to stop, after a checkpoint."""
        with ExitStack() as stack:
            for watcher in self._around.watchers:
                stack.callback(watcher.close)
                watcher.begin(self.state.step)
            if not self._measured():  # it was stopped while it measured
                raise self._interrupted()
            if self._guard.goes_back:
                self._return = ReturnPoint(self.state)
            quiet = self._around.workers.rank > 0
            self._bar = stack.enter_context(progress(f"train {self._stage}", self._config.steps, quiet=quiet))
            self._bar.done = self.state.step
            self._train()

    def held_out_loss(self) -> Tensor:
        """The loss of each level [K] on what is held out. Interrupted when its workers were asked to stop."""

        def unless_stopped() -> Iterator[Batch]:
            for batch in self._around.held_out():  # there may be minutes of them
                self._around.workers.mean(torch.empty(0, device=self.state.device))
                if self._around.workers.stopping:
                    raise Interrupted(
                        f"train {self._stage} stopped while it measured its held-out loss: start it again to go on"
                    )
                yield batch

        try:
            return held_out_loss(self.state.model, unless_stopped())
        finally:
            self._around.workers.settle(self.state.model)

    def _train(self) -> None:
        config, around = self._config, self._around
        peak = peak_rate(self.state.device, torch.bfloat16 if config.bfloat16 else torch.float32)
        batches = around.batches(self.state.step)
        train(self.state, batches, config, peak, self._after, around.workers, self._guard, self._go_back)

    def _after(self, report: StepReport) -> None:
        """What is done after a step."""
        assert self._bar is not None
        self._bar.advance(note=_note(report))
        self.history.add(report, gpu_gib(self.state.device))
        self._show(self.history.newest)
        stopping = self._around.workers.stopping or not self._measured()
        due = self.state.step % self._config.checkpoint_steps == 0 and self.state.step < self._config.steps
        if stopping or due:
            self._save()
        if stopping:
            self._around.keeper.finish()
            raise self._interrupted()

    def _measured(self) -> bool:
        """Measure the held-out loss, where it is due. False when the workers were asked to stop meanwhile."""
        every, step = self._config.evaluate_steps, self.state.step
        due = every and step and (step % every == 0 or step == self._config.steps)
        if not due or self.history.measured:
            return True
        with self.state.averaged():
            try:
                lowest = self.history.add_held_out(self.held_out_loss())
            except Interrupted:
                return False
            if lowest and self._config.keep_best:
                self.state.keep_best()
        self.state.model.train()
        self._show({"holdout_loss": self.history.curve[-1]["holdout_loss"]})
        return True

    def _show(self, figures: dict[str, float | None]) -> None:
        told = {name: value for name, value in figures.items() if value is not None}
        for watcher in self._around.watchers:
            watcher.show(self.state.step - 1, told)

    def _save(self) -> None:
        for watcher in self._around.watchers:
            watcher.flush()
        self._around.keeper.save(self.state, self.history.kept)
        if self._return:
            self._return.keep(self.state)

    def _go_back(self, step: int) -> Iterator[Batch]:
        assert self._return is not None and self._bar is not None  # only a guard that goes back asks for it
        self._return.restore(self.state)
        self.history.go_back(self.state.step)
        self._guard.go_back(step, self.history.curve)
        self._bar.done = self.state.step
        for watcher in self._around.watchers:
            watcher.begin(self.state.step)
        return self._around.batches(self.state.step)

    def _interrupted(self) -> Interrupted:
        return Interrupted(f"train {self._stage} stopped after {self.state.step} steps: start it again to go on")


def _begun(
    begin: Callable[[], TrainState], config: TrainConfig, keeper: Keeper
) -> tuple[TrainState, History, SpikeGuard]:
    """The state to go on from and what belongs to it: that of the newest checkpoint, where it allows it."""
    state = begin()
    stage = state.model.spec.name
    guard = SpikeGuard(stage, config)
    try:
        kept = keeper.resume(state)
    except CheckpointError as reason:
        print(f"train {stage} starts afresh: {reason}", file=sys.stderr)
        return state, History(stage), guard
    if kept is None:
        return state, History(stage), guard
    history = History(stage, kept)
    if not guard.follow(history.curve):
        print(f"train {stage} starts afresh: train.on_spike or spike_factor was another one before", file=sys.stderr)
        return begin(), History(stage), SpikeGuard(stage, config)
    print(f"train {stage} goes on after {state.step} steps", file=sys.stderr)
    return state, history, guard


def _note(report: StepReport) -> str:
    left_out = "  update left out" if report.skipped else ""
    return f"loss {report.loss:.3f}  {report.tokens_s:.3g} tokens/s  MFU {report.mfu:.0%}{left_out}"
