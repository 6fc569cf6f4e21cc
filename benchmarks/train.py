"""A training step of ours beside transformers' MusicGen decoder of the same width and depth, and what Ray Train costs.

Runs with torch alone, but for the peer and for Ray.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch

from benchmarks import measure, peers
from v2meow.config import StageConfig
from v2meow.model.lm import Conditions, StageSpec, Stream, TokenLM, VisualInput
from v2meow.train.loop import Batch, train_step
from v2meow.train.optim import make_optimizer
from v2meow.train.speed import peak_rate, step_flops

PEER, RAY = "transformers musicgen", "ray"
CONDITIONS, CONDITION_WIDTH, RATE = 16, 768, 50
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
HELP = """\
Training steps (forward, backward, clipping, AdamW), ours and those of transformers' MusicGen decoder in turns.

Both have the same layers, width, heads, feed-forward, codebooks, delay pattern, condition positions (16) and fused
AdamW; weights and codes are random. Weights are float32; bfloat16 is autocast, which is 100 times slower on CPUs
without AVX512-BF16: leave it out there with --dtype float32.

  ours_ms, peer_ms  a step, median over the rounds
  speedup           median of the rounds' own peer / ours: above 1 where we are faster
  tokens_s          codes that we learn from in a second
  mfu               the share of the device's matrix product rate that our step's arithmetic reaches: in bfloat16 on
                    known GPUs the data sheet's rate, else the one measured now

24x1024 takes 16 GB of memory and, on two cores, half a minute a round.

Case ray, measured when it is asked for, trains a small stage on random examples by the plain loop and under Ray Train
with one worker of as many cores, in turns:

  plain_tokens_s, ray_tokens_s  codes a second of the median step, median over the rounds
  share_of_step                 1 - ray / plain, the median of the rounds' own: should be at most 0.05
  plain_s, ray_s                a whole training, with the start of Ray and of its worker

  uv run --extra extractors python -m benchmarks.train --json
  uv run --extra pipeline --extra cluster python -m benchmarks.train --case ray --rounds 2 --json
  uv run python -m benchmarks.train --alone --case 4x256 --dtype float32
"""


@dataclass(frozen=True)
class Case:
    """Layers x width, and batch x positions of a step."""

    layers: int
    width: int
    heads: int
    batch: int
    positions: int

    @property
    def name(self) -> str:
        return f"{self.layers}x{self.width}"

    @property
    def frames(self) -> int:
        """Target frames whose delay pattern has `positions` steps."""
        return self.positions - (peers.CODEBOOKS - 1)


CASES = (Case(4, 256, 4, batch=4, positions=504), Case(24, 1024, 16, batch=1, positions=504))


def main(arguments: list[str] | None = None) -> None:
    """Print the machine, then a row a case and dtype, and one for Ray."""
    asked = _parser().parse_args(arguments)
    measure.emit(measure.machine(), json=asked.json)
    for case in CASES:
        if case.name in (asked.case or [case.name]):
            for row in compare(case, asked.dtype or list(DTYPES), asked.rounds, alone=asked.alone):
                measure.emit(row, json=asked.json)
    if RAY in (asked.case or []):
        from benchmarks.train_ray import compare_ray  # examples on disk and Ray are extras

        measure.emit(compare_ray(asked.rounds), json=asked.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of text")
    names = [*(case.name for case in CASES), RAY]
    parser.add_argument("--case", action="append", choices=names, help="repeatable; default: all but ray")
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="repeatable; default: all")
    parser.add_argument("--rounds", type=int, default=5, help="rounds in which each makes one step; default: 5")
    parser.add_argument("--alone", action="store_true", help="without transformers, where it is not installed")
    return parser


def compare(case: Case, dtypes: list[str], rounds: int, *, alone: bool) -> Iterator[dict[str, Any]]:
    """One row a dtype."""
    model, batch = ours(case)
    contestants: dict[str, Callable[[], object]] = {}
    step, peer_step = _our_step(case, model, batch), None if alone else _peer_step(case, batch)
    for dtype in dtypes:
        contestants[f"ours {dtype}"] = lambda dtype=dtype: step(dtype == "bfloat16")
        if peer_step:
            contestants[f"peer {dtype}"] = lambda dtype=dtype: peer_step(dtype == "bfloat16")
    taken = measure.alternate(contestants, rounds)
    for dtype in dtypes:
        seconds = median(taken[f"ours {dtype}"])
        rate = step_flops(model, batch.codes, batch.conditions) / seconds
        yield {
            "bench": "train",
            "case": case.name,
            "batch": f"{case.batch}x{case.positions}",
            "dtype": dtype,
            "peer": None if alone else PEER,
            "ours_ms": 1000 * seconds,
            "peer_ms": None if alone else 1000 * median(taken[f"peer {dtype}"]),
            "speedup": None if alone else measure.ratio(taken, f"peer {dtype}", f"ours {dtype}"),
            "tokens_s": batch.codes.numel() / seconds,
            "mfu": rate / peak_rate(measure.device(), DTYPES[dtype]),
        }


def ours(case: Case) -> tuple[TokenLM, Batch]:
    """A stage with cross-attention to 16 positions, 15 pictures and a text, and a batch for it."""
    torch.manual_seed(0)
    config, pictures = _config(case), CONDITIONS - 1
    spec = StageSpec(
        name="semantic",
        layers=config.layers,
        encoder_layers=config.encoder_layers,
        width=config.width,
        heads=config.heads,
        feed_forward=config.feed_forward,
        dropout=config.dropout,
        layout=config.layout,
        target=Stream(levels=peers.CODEBOOKS, bins=peers.BINS, rate=RATE),
        visual=(VisualInput(width=CONDITION_WIDTH, rate=pictures / config.window_seconds),),
        joint_width=CONDITION_WIDTH,
    )
    codes = torch.randint(0, peers.BINS, (case.batch, peers.CODEBOOKS, case.frames))
    visual = torch.randn(case.batch, pictures, CONDITION_WIDTH)
    keep = torch.ones(case.batch, dtype=torch.bool)  # as in training, where some rows lose their conditions
    given = Conditions((visual,), torch.randn(case.batch, CONDITION_WIDTH), keep_video=keep, keep_text=keep)
    return TokenLM(spec).to(measure.device()), Batch(codes, given).to(measure.device())


def _our_step(case: Case, model: TokenLM, batch: Batch) -> Callable[[bool], object]:
    config = _config(case)
    optimizer = make_optimizer(model, config.learning_rate, config.weight_decay)
    return lambda bfloat16: train_step(model, batch, optimizer, replace(config, bfloat16=bfloat16))


def _peer_step(case: Case, batch: Batch) -> Callable[[bool], object]:
    module = peers.musicgen_decoder(case.layers, case.width, case.heads, 4 * case.width, CONDITION_WIDTH)
    module.to(measure.device()).train()
    conditions = torch.randn(case.batch, CONDITIONS, CONDITION_WIDTH, device=measure.device())
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
    return lambda bfloat16: peers.train_step(module, batch.codes, conditions, optimizer, bfloat16=bfloat16)


def _config(case: Case) -> StageConfig:
    """A recipe's stage of that size; what a step reads of it besides is how the gradient is made and clipped."""
    return StageConfig(
        layers=case.layers,
        encoder_layers=1,
        width=case.width,
        heads=case.heads,
        feed_forward=4 * case.width,
        dropout=0.0,
        layout="delay",
        window_seconds=case.frames / RATE,
        drop_video=0.0,
        drop_text=0.0,
        steps=1,
        max_epochs=1,
        batch=case.batch,
        learning_rate=1e-4,
        warmup_steps=0,
        weight_decay=0.01,
        clip_norm=1.0,
        accumulate=1,
        ema=0.0,
        bfloat16=False,
        checkpoint_activations=False,
        compile=False,
        checkpoint_steps=1,
    )


if __name__ == "__main__":
    main()
