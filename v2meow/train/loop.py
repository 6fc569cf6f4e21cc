"""The plain training loop of one stage: a state, batches and a config in, trained weights and reports out.

Knows nothing of files, clusters or progress bars. Runs with torch alone.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from v2meow.config import StageConfig
from v2meow.model.lm import Conditions, TokenLM, token_losses
from v2meow.train.optim import rate_at, set_rate
from v2meow.train.speed import step_flops
from v2meow.train.spikes import RollBack, SpikeGuard
from v2meow.train.state import TrainState
from v2meow.train.workers import Workers, whole
from v2meow.train.wrap import wrapped


@dataclass
class Batch:
    """Target codes [B, K, T], what they are conditioned on, and in layout parallel which are `hidden` [B, K, T]."""

    codes: Tensor
    conditions: Conditions
    hidden: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The batch on `device`."""
        return _each_tensor(self, lambda tensor: tensor.to(device))

    def split(self, parts: int) -> list["Batch"]:
        """The batch as `parts` batches of as many rows each, or one more."""
        ends = [len(self.codes) * part // parts for part in range(parts + 1)]
        return [
            _each_tensor(self, lambda tensor, first=first, end=end: tensor[first:end]) for first, end in pairwise(ends)
        ]


@dataclass(frozen=True)
class StepReport:
    """What one step showed: loss in nats a code, gradient norm before clipping, learning rate, speed.

    `tokens_s` counts target codes a second, of all workers together; `mfu` is the share of the devices' peak that the
    step's arithmetic used, `waited` the share of the step's time that this worker waited for its batch. The update of
    a `skipped` step was not made.
    """

    step: int
    loss: float
    loss_by_level: tuple[float, ...]
    gradient_norm: float
    learning_rate: float
    tokens_s: float
    mfu: float
    waited: float
    skipped: bool = False


def loss_of(model: TokenLM, batch: Batch, joined: nn.Module | None = None) -> Tensor:
    """Mean cross-entropy of each codebook level, in nats: [K]. `joined` is called instead of the model."""
    logits = (joined or model)(batch.codes, batch.conditions, batch.hidden)
    losses = token_losses(logits, batch.codes, model.layout(batch.codes.shape[2]))
    return losses.mean((0, 2)) if batch.hidden is None else _hidden_losses(losses, batch.hidden)


def _hidden_losses(losses: Tensor, hidden: Tensor) -> Tensor:
    """[B, K, T] → [K], from the hidden codes of the lowest level of each example that has any: they are what is learnt.

    Each example counts alike, however much of it is hidden, and K times at its own level: so the mean over levels is
    the mean over examples, parts of a batch add up to the whole, and a level that no example is at adds nothing.
    Where every level has as many examples, as in held-out batches together, each level's value is its own mean.
    """
    learnt = hidden & (hidden.any(2).cumsum(1) == 1)[:, :, None]
    return (losses * learnt).sum(2).div(learnt.sum((1, 2))[:, None]).mean(0) * hidden.shape[1]


def train_step(
    model: TokenLM,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    config: StageConfig,
    workers: Workers | None = None,
    joined: nn.Module | None = None,
    accepts: Callable[[float, float], bool] = lambda loss, norm: True,
) -> tuple[Tensor, float, bool]:
    """One update from `batch`, of which this worker takes its part, in passes of `config.accumulate`th parts at most.

    Returns the loss of each level, [K] on the CPU, the gradient norm before clipping, and whether the update was made,
    which `accepts` decides from the mean loss and the norm: those of all workers, and the same in each.
    """
    workers, joined = workers or Workers(), joined or model
    optimizer.zero_grad(set_to_none=True)
    device = model.norm.weight.device
    total = torch.zeros(batch.codes.shape[1], device=device)
    passes = max(1, min(-(-config.accumulate // workers.size), len(batch.codes) // workers.size))  # none is empty
    for number, part in enumerate(batch.split(workers.size)[workers.rank].split(passes), 1):
        share = len(part.codes) * workers.size / len(batch.codes)  # workers' means are averaged, whatever their parts
        with workers.exchange(joined, now=number == passes):
            with torch.autocast(device.type, torch.bfloat16, enabled=config.bfloat16):
                losses = loss_of(model, part.to(device), joined) * share
            losses.mean().backward()
        total += losses.detach()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
    told = workers.mean(torch.cat((total, whole(norm)[None])))  # the only place that waits for the device
    losses, norm = told[:-1], told[-1].item()
    made = accepts(losses.mean().item(), norm)
    if made:
        optimizer.step()
    return losses, norm, made


def train(
    state: TrainState,
    batches: Iterator[Batch],
    config: StageConfig,
    peak: float,
    on_step: Callable[[StepReport], None],
    workers: Workers | None = None,
    guard: SpikeGuard | None = None,
    go_back: Callable[[int], Iterator[Batch]] | None = None,
) -> None:
    """Take `state` from the step it has reached to step `config.steps`, one batch each.

    `batches` begin at that step and are those of all workers, of which each takes its part; `peak` is the FLOP/s of
    one device; `on_step` may save the state, which is then that after the reported step. `guard` says which updates are
    made; its TrainingError ends training, before the weights are ruined: without one, at the first loss or gradient
    that is no number. Where it asks to go back from a step, `go_back` changes the state, and returns its next batches.
    """
    workers, guard = workers or Workers(), guard or SpikeGuard(state.model.spec.name)
    state.model.train()
    with wrapped(state.model, config):
        joined = workers.joined(state.model)
        while state.step < config.steps:
            try:
                report = _timed_step(state, batches, config, peak, workers, joined, guard)
            except RollBack as spike:
                if go_back is None:
                    raise
                batches = go_back(spike.step)
                continue
            if not report.skipped:
                state.update_average()
            state.step += 1
            on_step(report)
    state.use_result()
    state.model.eval()


def _timed_step(
    state: TrainState,
    batches: Iterator[Batch],
    config: StageConfig,
    peak: float,
    workers: Workers,
    joined: nn.Module,
    guard: SpikeGuard,
) -> StepReport:
    """The next step; waiting for its batch counts as a part of it."""
    rate = rate_at(state.step, peak=config.learning_rate, warmup=config.warmup_steps, total=config.steps)
    set_rate(state.optimizer, rate)
    torch.manual_seed(_seed(state, workers))
    start = time.perf_counter()
    batch = next(batches)
    waited = time.perf_counter() - start
    accepts = partial(guard.accepts, state.step)
    losses, norm, made = train_step(state.model, batch, state.optimizer, config, workers, joined, accepts)
    seconds = time.perf_counter() - start
    flops = step_flops(state.model, batch.codes, batch.conditions)
    return StepReport(
        step=state.step,
        loss=losses.mean().item(),
        loss_by_level=tuple(losses.tolist()),
        gradient_norm=norm,
        learning_rate=rate,
        tokens_s=batch.codes.numel() / seconds,
        mfu=flops / seconds / (peak * workers.size),
        waited=waited / seconds,
        skipped=not made,
    )


def _seed(state: TrainState, workers: Workers) -> int:
    """What dropout draws from in this step and worker: nothing of it needs to be saved to go on from a step."""
    return (state.seed * 1_000_003 + state.step) * 4096 + workers.rank


def drop_conditions(batch: Batch, config: StageConfig, generator: torch.Generator) -> Batch:
    """Switch off picture and text of random rows, so that the model also learns to do without them."""
    rows = batch.codes.shape[0]
    given = batch.conditions
    given.keep_video = torch.rand(rows, generator=generator) >= config.drop_video
    given.keep_text = torch.rand(rows, generator=generator) >= config.drop_text
    return batch


@torch.no_grad()
def held_out_loss(model: TokenLM, batches: Iterator[Batch]) -> Tensor:
    """Mean loss of each codebook level over `batches`, in nats: [K]."""
    model.eval()
    device = model.norm.weight.device
    losses = [(loss_of(model, batch.to(device)), len(batch.codes)) for batch in batches]
    total = sum(rows for _, rows in losses)
    return torch.stack([loss * rows / total for loss, rows in losses]).sum(0)


def _each_tensor(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`value` with `change` applied to every tensor in it, through dataclasses and tuples."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_each_tensor(part, change) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{f.name: _each_tensor(getattr(value, f.name), change) for f in fields(value)})
    return value
