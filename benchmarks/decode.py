"""A decoding step of our engine beside transformers' MusicGen decoder and a bare PyTorch decoder of the same size.

Runs with torch alone, but for the peer.
"""

import argparse
import dataclasses
import gc
import math
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from benchmarks import measure, peers
from v2meow.config import STAGES, Recipe, SamplingConfig, StageName, load_recipe, recipe_path
from v2meow.generate.engine import Engine
from v2meow.generate.linear import Precision
from v2meow.generate.request import Request
from v2meow.model.lm import Conditions, StageSpec, Stream, TokenLM, VisualInput, stage_spec
from v2meow.model.patterns import UNKNOWN

CONDITIONS, CONDITION_WIDTH, RATE = 16, 768, 50
SOUNDSTREAM_RATE = 50.0  # codec frames a second in the paper; EnCodec, which stands for it in the recipe, has 75
SAMPLING = SamplingConfig(temperature=1.0, top_k=peers.TOP_K, top_p=1.0, guide_video=peers.GUIDANCE, guide_text=1.0)
PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "bfloat16", "int8", "int5")
BYTES_ONLY: tuple[Precision, ...] = ("int8", "int5")  # for CPUs
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "int5": 1}  # of a weight outside of feed-forward layers
FEED_BYTES = BYTES | {"int5": 41 / 64}  # 5 bits, and a size for each 64
HELP = """\
Windows decoded with guidance (two rows a sequence) from their conditions on, ours and the peers' in turns.

All have the same layers, width, heads, feed-forward, 4 codebooks of 2048 with the delay pattern, 16 condition
positions by cross-attention, and top-k 250; weights are random. int8 and int5 are compared with the
peers in float32, as float16 is on CPUs, where PyTorch has no faster product of it.

  transformers generate         MusicgenForConditionalGeneration.generate without its codec: how it makes sound
  transformers dynamic, static  its decoder driven by hand with that cache and nothing else in the loop
  bare                          a plain PyTorch decoder with fused projections and a preallocated cache

  ours_ms, peer_ms  a step, median over the rounds
  speedup           median of the rounds' own peer / ours: above 1 where we are faster
  floor_ms          weights and cache that a step reads, over the bandwidth measured between the rounds, or the step's
                    arithmetic over the rate of large matrix products, whichever is longer
  over_floor        ours / floor
  tokens_s          codes a second, all sequences together

More rows: `growth` (750 steps: median of the last fifth over that of the first), `staggered` (8 requests that come
one after the other: time over that of 8 at once), `memory` (what an engine adds to the process over its weights and
cache), `piece` (10 s of music by three stages of the paper recipe, one after the other, in layout delay and the lowest
precision that the device has; 75 codec frames a second, as EnCodec has), `piece-50hz` (the same at the paper's rate,
that of SoundStream).

  uv run --extra extractors python -m benchmarks.decode --json
  uv run python -m benchmarks.decode --alone --case 4x256 --batch 1
"""


@dataclass(frozen=True)
class Case:
    """Layers x width, and how many steps a window takes."""

    layers: int
    width: int
    heads: int
    steps: int

    @property
    def name(self) -> str:
        return f"{self.layers}x{self.width}"


CASES = (Case(24, 1024, 16, steps=64), Case(12, 1024, 16, steps=48), Case(4, 256, 4, steps=250))
MORE = {
    "growth": lambda: growth(CASES[2]),
    "staggered": lambda: staggered(CASES[2]),
    "memory": lambda: memory(CASES[1]),
    "piece": lambda: piece(_lowest()),
    "piece-50hz": lambda: piece(_lowest(), SOUNDSTREAM_RATE),
}


def main(arguments: list[str] | None = None) -> None:
    """Print the machine, then a row a case, batch, precision and peer, then the further rows."""
    asked = _parser().parse_args(arguments)
    measure.emit(measure.machine(), json=asked.json)
    for case in CASES:
        for batch in asked.batch or _batches():
            if case.name in (asked.case or [case.name]):
                for row in compare(case, batch, asked.precision or PRECISIONS, asked.rounds, alone=asked.alone):
                    measure.emit(row, json=asked.json)
    for name, run in MORE.items():
        if name in (asked.case or [name]):
            measure.emit(run(), json=asked.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.decode", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of text")
    names = [*(case.name for case in CASES), *MORE]
    parser.add_argument("--case", action="append", choices=names, help="repeatable; default: all")
    parser.add_argument("--batch", action="append", type=int, help="repeatable; default: 1 and 8, on a GPU also 32, 64")
    parser.add_argument("--precision", action="append", choices=PRECISIONS, help="repeatable; default: all")
    parser.add_argument("--rounds", type=int, default=5, help="rounds in which each takes its turn; default: 5")
    parser.add_argument("--alone", action="store_true", help="without transformers, where it is not installed")
    return parser


def _batches() -> list[int]:
    return [1, 8, 32, 64] if measure.device().type == "cuda" else [1, 8]


def _peer_dtype(precision: Precision) -> torch.dtype:
    """What the peers compute in."""
    if precision == "bfloat16":
        return torch.bfloat16
    return torch.float16 if precision == "float16" and measure.device().type == "cuda" else torch.float32


def _lowest() -> Precision:
    return "int5" if measure.device().type == "cpu" else "bfloat16"


# ---- against peers


def compare(
    case: Case, batch: int, precisions: tuple[Precision, ...], rounds: int, *, alone: bool
) -> Iterator[dict[str, Any]]:
    """A row for each precision and peer. One precision after the other, for the memory's sake."""
    for precision in precisions:
        if precision in BYTES_ONLY and measure.device().type == "cuda":
            continue
        gc.collect()
        bandwidths: list[float] = []  # filled anew for each precision
        decoders = {"ours": _our_window(case, batch, precision)} | _peer_windows(case, batch, precision, alone=alone)
        contestants = decoders | {"bandwidth": lambda found=bandwidths: found.append(measure.read_bandwidth())}
        taken = measure.alternate(contestants, rounds)
        ours = 1000 * median(taken["ours"]) / case.steps
        floor = 1000 * _floor(case, batch, precision, median(bandwidths))
        for peer in [name for name in decoders if name != "ours"] or [None]:
            yield {
                "bench": "decode",
                "case": case.name,
                "batch": batch,
                "precision": precision,
                "peer": peer,
                "ours_ms": ours,
                "peer_ms": 1000 * median(taken[peer]) / case.steps if peer else None,
                "speedup": measure.ratio(taken, peer, "ours") if peer else None,
                "floor_ms": floor,
                "over_floor": ours / floor,
                "tokens_s": 1000 * batch * peers.CODEBOOKS / ours,
            }


def our_model(case: Case, seconds: float) -> TokenLM:
    """A stage with cross-attention to 16 positions, 15 pictures and a text."""
    torch.manual_seed(0)
    spec = StageSpec(
        name="semantic",
        layers=case.layers,
        encoder_layers=1,
        width=case.width,
        heads=case.heads,
        feed_forward=4 * case.width,
        dropout=0.0,
        layout="delay",
        target=Stream(levels=peers.CODEBOOKS, bins=peers.BINS, rate=RATE),
        visual=(VisualInput(width=CONDITION_WIDTH, rate=(CONDITIONS - 1) / seconds),),
        joint_width=CONDITION_WIDTH,
    )
    return TokenLM(spec).to(measure.device())


def our_engine(case: Case, batch: int, precision: Precision, frames: int) -> Engine:
    """An engine for `batch` sequences of two rows each."""
    seconds = frames / RATE
    return Engine(our_model(case, seconds), SAMPLING, rows=2 * batch, seconds=seconds, precision=precision)


def request(frames: int, seed: int) -> Request:
    """Codes for random pictures and no text: with guidance, two rows."""
    random = torch.Generator().manual_seed(seed)
    visual = torch.randn(1, CONDITIONS - 1, CONDITION_WIDTH, generator=random)
    return Request(Conditions((visual,)), torch.full((peers.CODEBOOKS, frames), UNKNOWN), seed)


def _our_window(case: Case, batch: int, precision: Precision) -> Callable[[], object]:
    frames = case.steps - (peers.CODEBOOKS - 1)
    engine = our_engine(case, batch, precision, frames)
    return lambda: _serve(engine, batch, frames, apart=0)


def _peer_windows(case: Case, batch: int, precision: Precision, *, alone: bool) -> dict[str, Callable[[], object]]:
    size, dtype = (case.layers, case.width, case.heads, 4 * case.width, CONDITION_WIDTH), _peer_dtype(precision)
    conditions = torch.randn(batch, CONDITIONS, CONDITION_WIDTH, device=measure.device(), dtype=dtype)

    def ready(module: nn.Module) -> Any:
        return module.to(measure.device(), dtype).eval()

    bare = ready(peers.BareDecoder(*size))
    windows: dict[str, Callable[[], object]] = {"bare": lambda: _exhaust(bare.decode_steps(conditions, case.steps))}
    if not alone:
        musicgen = ready(peers.musicgen_decoder(*size))
        for cache in ("dynamic", "static"):
            windows[f"transformers {cache}"] = lambda cache=cache: _exhaust(
                peers.decode_steps(musicgen, conditions, case.steps, cache)
            )
        whole = ready(peers.musicgen(*size))
        windows["transformers generate"] = lambda: peers.generate(whole, batch, CONDITIONS, case.steps)
    return windows


def _exhaust(decoder: Iterator[object]) -> None:
    for _ in decoder:
        pass


def _floor(case: Case, batch: int, precision: Precision, bandwidth: float) -> float:
    """Seconds below which no step can come: reading weights and cache once, or the arithmetic, whichever is longer.

    The cache counts as it stands in the middle of the window.
    """
    width, rows = case.width, 2 * batch
    of_feed = case.layers * 8 * width**2
    others = case.layers * (4 + 2) * width**2 + peers.CODEBOOKS * peers.BINS * width
    cached = case.layers * rows * 2 * (case.steps // 2 + CONDITIONS) * width
    cache_bytes = 4 if precision == "float32" else 2
    reading = (others * BYTES[precision] + of_feed * FEED_BYTES[precision] + cached * cache_bytes) / bandwidth
    arithmetic = 2 * rows * (others + of_feed) / measure.gemm_rate(_peer_dtype(precision))
    return reading if precision in BYTES_ONLY else max(reading, arithmetic)


# ---- of our own


def growth(case: Case, steps: int = 750) -> dict[str, Any]:
    """Median step of the last fifth of a long window over that of the first."""
    frames = steps - (peers.CODEBOOKS - 1)
    engine = our_engine(case, 1, "float32", frames)
    engine.submit(request(frames, 0))
    engine.step()  # reads the conditions, too
    taken = [measure.timed(engine.step) for _ in range(steps - 1)]
    fifth = len(taken) // 5
    first, last = median(taken[:fifth]), median(taken[-fifth:])
    return {
        "bench": "growth",
        "case": case.name,
        "steps": steps,
        "first_ms": 1000 * first,
        "last_ms": 1000 * last,
        "growth": last / first,
    }


def staggered(case: Case, requests: int = 8, frames: int = 200, rounds: int = 5) -> dict[str, Any]:
    """Time until the last of 8 requests is done that come 4 steps apart, over that of 8 that come together."""
    engine = our_engine(case, requests, "float32", frames)
    contestants: dict[str, Callable[[], object]] = {
        "together": lambda: _serve(engine, requests, frames, 0),
        "staggered": lambda: _serve(engine, requests, frames, 4),
    }
    taken = measure.alternate(contestants, rounds)
    return {
        "bench": "staggered",
        "case": case.name,
        "requests": requests,
        "together_s": median(taken["together"]),
        "staggered_s": median(taken["staggered"]),
        "ratio": measure.ratio(taken, "staggered", "together"),
    }


def _serve(engine: Engine, requests: int, frames: int, apart: int) -> None:
    for number in range(requests):
        engine.submit(request(frames, number))
        for _ in range(apart):
            engine.step()
    while engine.busy:
        engine.step()


def memory(case: Case, batch: int = 8, frames: int = 500) -> dict[str, Any]:
    """What an engine holds, once at work, over its weights and cache; libraries are loaded by a small one before."""
    _serve(our_engine(CASES[-1], 1, "float32", 4), 1, 4, apart=0)
    before = _resident()
    engine = our_engine(case, batch, "float32", frames)
    for number in range(batch):
        engine.submit(request(frames, number))
    for _ in range(20):
        engine.step()
    gc.collect()
    held = _resident() - before
    weights = 4 * sum(part.numel() for part in our_model(case, 1.0).parameters())
    decoder = engine._state.decoder
    cache = sum(part.both.nbytes for part in (*decoder.cache, *decoder.memory) if part)
    return {
        "bench": "memory",
        "case": case.name,
        "batch": batch,
        "held_mib": held / 2**20,
        "weights_mib": weights / 2**20,
        "cache_mib": cache / 2**20,
        "ratio": held / (weights + cache),
    }


def piece(precision: Precision, codec_rate: float | None = None, seconds: float = 10.0) -> dict[str, Any]:
    """Seconds that each stage of the paper recipe takes for a piece, guided; the fine stage's windows go together.

    `codec_rate` in frames a second is the recipe's own unless it is given.
    """
    recipe = load_recipe(recipe_path("paper"))
    rate, taken = codec_rate or recipe.codec.rate, {}
    for name in STAGES:
        model = TokenLM(piece_spec(recipe, name, rate)).to(measure.device())
        window = min(recipe.stage(name).window_seconds, seconds)
        requests = [_of_stage(model, window, seed) for seed in range(math.ceil(seconds / window))]
        rows = sum(len(request.rows(model.spec, recipe.sampling(name))) for request in requests)
        engine = Engine(model, recipe.sampling(name), rows=rows, seconds=window, precision=precision)
        taken[name] = measure.timed(lambda engine=engine, requests=requests: _finish(engine, requests))
        del model, engine
        gc.collect()
    figures = {f"{name}_s": seconds_taken for name, seconds_taken in taken.items()}
    return {
        "bench": "piece",
        "precision": precision,
        "codec_rate": rate,
        "seconds": seconds,
        **figures,
        "total_s": sum(taken.values()),
        "real_time": seconds / sum(taken.values()),
    }


def piece_spec(recipe: Recipe, name: StageName, codec_rate: float) -> StageSpec:
    """A stage of the recipe in layout delay, with so many codec frames a second."""
    spec = stage_spec(recipe, name, visual_widths=(768, 1024), joint_width=512)
    of_codec = {"semantic": (), "coarse": ("target",), "fine": ("target", "prefix")}[name]
    streams = {stream: dataclasses.replace(getattr(spec, stream), rate=codec_rate) for stream in of_codec}
    return dataclasses.replace(spec, layout="delay", dropout=0.0, **streams)


def _of_stage(model: TokenLM, seconds: float, seed: int) -> Request:
    """A request for a whole window with random conditions."""
    spec, random = model.spec, torch.Generator().manual_seed(seed)
    visual = tuple(torch.randn(1, round(seconds * v.rate), v.width, generator=random) for v in spec.visual)
    joint = torch.randn(1, spec.joint_width, generator=random) if spec.joint_width else None
    prefix = None
    if spec.prefix:
        shape = (1, spec.prefix.levels, round(seconds * spec.prefix.rate))
        prefix = torch.randint(0, spec.prefix.bins, shape, generator=random)
    codes = torch.full((spec.target.levels, round(seconds * spec.target.rate)), UNKNOWN)
    return Request(Conditions(visual, joint, prefix), codes, seed)


def _finish(engine: Engine, requests: list[Request]) -> None:
    for each in requests:
        engine.submit(each)
    while engine.busy:
        engine.step()


def _resident() -> float:
    """Bytes of memory in use now: the device's on a GPU, the process's elsewhere."""
    if measure.device().type == "cuda":
        return torch.cuda.memory_allocated()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
