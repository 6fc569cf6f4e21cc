"""Scoring a file: a video in, a video with music out. The only part of generation that reads and writes files."""

import math
import time
from collections.abc import Generator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from v2meow import bundle
from v2meow.config import Recipe, VisualConfig
from v2meow.encoders.visual import load_visual
from v2meow.files import sha256
from v2meow.generate.parts import bundle_recipe
from v2meow.generate.piece import Brief, Piece
from v2meow.generate.pipeline import Cascade
from v2meow.generate.provenance import comment, provenance
from v2meow.generate.takes import agreement
from v2meow.generate.watermark import marked, read_secret
from v2meow.media import MediaError, Reader, write_wav
from v2meow.progress import progress

FADE_SECONDS = 0.1  # at the end of a piece


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a person asks for. `begin` is a file whose first `begin_seconds` of sound the music begins with.

    `watermark` is a file with a secret that the music is marked by.
    """

    prompt: str | None = None
    seconds: float | None = None
    seed: int = 0
    takes: int = 1
    begin: Path | None = None
    begin_seconds: float = 3.0
    wav: bool = False
    watermark: Path | None = None


@dataclass(frozen=True)
class _Take:
    """One finished piece, its sound, and how well it goes with the picture, in nats an id."""

    seed: int
    waveform: np.ndarray
    agreement: float


def generate_file(video: Path, out: Path, model: Path, order: Order) -> dict[str, Any]:
    """Score `video` into the MP4 `out` (and a WAV beside it) with the bundle `model`; returns what was done.

    The best of several takes becomes `out`, the next OUT-2.mp4 and so on. The same seed, video and model give the
    same audio. MediaError, PromptError, WatermarkError or BundleError with one line.
    """
    if out.suffix.lower() != ".mp4":
        raise MediaError(out, "the scored video is an MP4 file: give a name that ends in .mp4")
    secret = read_secret(order.watermark) if order.watermark else None
    verified = bundle.verify(model)
    with Reader(bundle_recipe(model).media) as reader:
        reader.begin()
        cascade = Cascade(model, pieces=order.takes, verified=verified)
        pieces = _pieces(cascade, reader, video, order)
        began = time.perf_counter()
        takes, first = _make(cascade, pieces)
        took = time.perf_counter() - began
        rate, seen = cascade.recipe.codec.sample_rate, sha256(video)
        for number, take in enumerate(takes, 1):
            file = out if number == 1 else out.with_name(f"{out.stem}-{number}{out.suffix}")
            about = comment(provenance(bundle=cascade.bundle, seed=take.seed, video=seen, prompt=order.prompt))
            sound = take.waveform if secret is None else marked(take.waveform, secret, cascade.bundle, rate)
            reader.mux(video, sound, rate, file, about)
            if order.wav:
                write_wav(file.with_suffix(".wav"), sound, rate, about)
    best, length = takes[0], pieces[0].brief.seconds
    level = 10 * math.log10(float(np.mean(best.waveform.astype(np.float64) ** 2)) + 1e-12)
    figures = {"out": str(out), "seconds": round(length, 3), "level_dbfs": round(level, 1), "seed": best.seed}
    if len(takes) > 1:
        figures["agreement"] = ", ".join(f"seed {take.seed}: {take.agreement:+.3f} nats an id" for take in takes)
    speed = f"{len(takes) * length / took:.1f} x real time, first sound after {first - began:.2f} s"
    return figures | {"speed": speed, "model": cascade.bundle[:12]}


def _pieces(cascade: Cascade, reader: Reader, video: Path, order: Order) -> list[Piece]:
    """One piece a take: seeds from the order's on."""
    joint = cascade.embed_prompt(order.prompt) if order.prompt is not None else None
    length = reader.probe(video).seconds
    length = min(length, order.seconds) if order.seconds is not None else length
    visual = read_features(cascade.recipe, reader, video, length)
    given: dict[str, Tensor] = {}
    if order.begin:
        sound = reader.waveform(order.begin, cascade.recipe.codec.sample_rate, 0.0, order.begin_seconds)
        given = dict(zip(("ids", "codes"), cascade.begin_with(torch.from_numpy(sound)), strict=True))
    return [
        Piece(Brief(visual=visual, joint=joint, seconds=length, seed=order.seed + take, **given), cascade.recipe)
        for take in range(order.takes)
    ]


def _make(cascade: Cascade, pieces: list[Piece]) -> tuple[list[_Take], float]:
    """The takes, best first, and when the first sound was there."""
    chunks: list[list[Tensor]] = [[] for _ in pieces]
    first = math.inf
    with progress("generate", sum(len(piece.chunk_ends) for piece in pieces)) as bar:
        for number, chunk in cascade.stream(pieces):
            first = min(first, time.perf_counter())
            chunks[number].append(chunk)
            bar.advance(note=f"{sum(map(len, chunks[number])) / cascade.recipe.codec.sample_rate:.0f} s")
    judge, rate = cascade.engines["semantic"].model, cascade.recipe.codec.sample_rate
    takes = [
        _Take(
            piece.brief.seed, faded(torch.cat(parts), rate).numpy(), agreement(judge, piece) if len(pieces) > 1 else 0.0
        )
        for piece, parts in zip(pieces, chunks, strict=True)
    ]
    return sorted(takes, key=lambda take: -take.agreement), first


def faded(waveform: Tensor, rate: int) -> Tensor:
    """The waveform with its last FADE_SECONDS going down to silence: cut off where the video ends, music clicks."""
    count = min(len(waveform), fading(rate))
    fall = 0.5 + 0.5 * torch.cos(torch.linspace(0, math.pi, count + 1)[1:])
    return torch.cat((waveform[: len(waveform) - count], waveform[len(waveform) - count :] * fall))


def fading(rate: int) -> int:
    """How many samples at the end of a piece go down to silence."""
    return round(FADE_SECONDS * rate)


def read_features(recipe: Recipe, reader: Reader, video: Path, seconds: float) -> tuple[Tensor, ...]:
    """Features [V, width] of each extractor for the first `seconds` of a video, in whole clips.

    Pictures are read, and forgotten, clip by clip, each with those beside it that its rows depend on: however long
    the video is, memory is not, and no joint shows.
    """
    return tuple(map(torch.cat, zip(*features_by_clip(recipe, reader, video, seconds), strict=True)))


def features_by_clip(recipe: Recipe, reader: Reader, video: Path, seconds: float) -> Generator[tuple[Tensor, ...]]:
    """The same, a clip of each extractor after the other: who waits for the first need not wait for all.

    Close it where it is not read to its end, while the file is still there.
    """
    clips = math.ceil(seconds / recipe.data.clip_seconds)
    with ExitStack() as stack:
        each = [
            stack.enter_context(closing(_features(recipe, visual, reader, video, clips))) for visual in recipe.visual
        ]
        yield from zip(*each, strict=True)


def _features(recipe: Recipe, visual: VisualConfig, reader: Reader, video: Path, clips: int) -> Generator[Tensor]:
    """Features [V, width] of one clip after the other, each from pictures beside it, too."""
    length = recipe.data.clip_seconds
    beside = math.ceil(round(visual.context_seconds * visual.rate, 6))  # rows that are computed and dropped
    before = [beside if clip else 0 for clip in range(clips)]
    parts = [
        (clip * length - rows / visual.rate, length + (rows + beside) / visual.rate) for clip, rows in enumerate(before)
    ]
    read = reader.stretches(video, visual.frame_rate, visual.size, parts, whole=visual.whole)
    with closing(read) as stretches:
        for rows, frames in zip(before, stretches, strict=True):
            yield torch.from_numpy(load_visual(visual)(frames)[rows : rows + round(length * visual.rate)])
