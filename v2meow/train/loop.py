"""The plain training loop of one stage: model, batches and a config in, losses out.

Knows nothing of files, clusters or progress bars. Runs with torch alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from v2meow.config import StageConfig
from v2meow.model.lm import Conditions, TokenLM, token_losses
from v2meow.train.optim import make_optimizer, rate_at, set_rate


@dataclass
class Batch:
    """Target codes [B, K, T] and what they are conditioned on."""

    codes: Tensor
    conditions: Conditions


@dataclass(frozen=True)
class StepReport:
    """What one step showed: loss in nats a code, gradient norm before clipping, learning rate."""

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float


def loss_of(model: TokenLM, batch: Batch) -> Tensor:
    """Mean cross-entropy of each codebook level, in nats: [K]."""
    logits = model(batch.codes, batch.conditions)
    return token_losses(logits, batch.codes, model.layout(batch.codes.shape[2])).mean((0, 2))


def train_step(
    model: TokenLM, batch: Batch, optimizer: torch.optim.Optimizer, clip_norm: float, *, bfloat16: bool
) -> tuple[float, float]:
    """One update; returns the loss and the gradient norm."""
    with torch.autocast(batch.codes.device.type, torch.bfloat16, enabled=bfloat16):
        loss = loss_of(model, batch).mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    return loss.item(), float(norm)


def train(model: TokenLM, batches: Iterator[Batch], config: StageConfig, on_step: Callable[[StepReport], None]) -> None:
    """Train `model` in place for `config.steps` steps, one batch each."""
    optimizer = make_optimizer(model, config.learning_rate, config.weight_decay)
    model.train()
    for step in range(config.steps):
        rate = rate_at(step, peak=config.learning_rate, warmup=config.warmup_steps, total=config.steps)
        set_rate(optimizer, rate)
        loss, norm = train_step(model, next(batches), optimizer, config.clip_norm, bfloat16=config.bfloat16)
        on_step(StepReport(step, loss, norm, rate))
    model.eval()


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
    losses = [(loss_of(model, batch), len(batch.codes)) for batch in batches]
    total = sum(rows for _, rows in losses)
    return torch.stack([loss * rows / total for loss, rows in losses]).sum(0)
