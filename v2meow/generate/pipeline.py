"""From a video to its music: the cascade of a bundle, end to end.

    features of the picture ─► semantic ids ─► coarse codes ─► fine codes ─► codec ─► waveform

Legend: B requests, V visual frames, K levels, T frames.
"""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from v2meow import bundle
from v2meow.config import STAGES, Recipe, StageName, load_recipe
from v2meow.encoders.codec import Codec
from v2meow.encoders.joint import TwoTower
from v2meow.encoders.visual import EXTRACTORS
from v2meow.files import read_json
from v2meow.generate.decode import decode
from v2meow.generate.windows import Window, advance
from v2meow.media import MediaError, Reader, write_wav
from v2meow.model.io import load_stage
from v2meow.model.lm import Conditions
from v2meow.model.patterns import UNKNOWN
from v2meow.progress import progress
from v2meow.weights import METRICS


class PromptError(ValueError):
    """A prompt that this model cannot follow."""


class Cascade:
    """The three stages, the codec and the text tower of one bundle. Load it once, use it often."""

    def __init__(self, folder: Path) -> None:
        """Load a bundle folder; BundleError when a file is missing or changed."""
        self.bundle = bundle.verify(folder)
        self.recipe: Recipe = load_recipe(folder / "recipe.yaml")
        self.stages = {name: load_stage(folder / name) for name in STAGES}
        self.codec = Codec.load(folder / "encoders" / "codec")
        self.joint = TwoTower.load(folder / "encoders" / "joint")
        self.follows_text = bool(read_json(folder / "encoders" / "joint" / METRICS)["pairs"])

    def embed_prompt(self, prompt: str) -> Tensor:
        """[1, width]. PromptError when the model was trained without captions, or the prompt is empty."""
        if not self.follows_text:
            raise PromptError("--prompt: this model was trained on videos without captions and cannot follow text")
        if not prompt.strip():
            raise PromptError("--prompt: the prompt is empty")
        with torch.inference_mode():
            return self.joint.embed_text([prompt])

    def generate(
        self, visual: tuple[Tensor, ...], joint: Tensor | None, seconds: float, seeds: Sequence[int]
    ) -> Tensor:
        """Waveforms float32 [B, T] of `seconds` for features [B, V, width] of each extractor and one seed a request.

        `joint` [B, width] is the music-text vector, None without a prompt.
        """
        ids = self.semantic(visual, joint, seconds, seeds)
        coarse = self.coarse(ids, seeds)
        waveform = self.codec.decode(torch.cat((coarse, self.fine(coarse, seeds)), dim=1))
        return waveform[:, : round(seconds * self.recipe.codec.sample_rate)]

    def semantic(
        self, visual: tuple[Tensor, ...], joint: Tensor | None, seconds: float, seeds: Sequence[int]
    ) -> Tensor:
        """Semantic ids [B, 1, T] for `seconds`, window by window with the recipe's context."""
        rate = self.recipe.semantic_ids.rate
        ids = _unknown(len(seeds), 1, math.ceil(seconds * rate))
        generators = _generators(seeds, "semantic")
        for window in self._windows("semantic", ids.shape[2], rate):
            start, stop = window.start / rate, window.end / rate
            cut = tuple(
                _cut(features, extractor.rate, start, stop)
                for features, extractor in zip(visual, self.recipe.visual, strict=True)
            )
            piece = slice(window.start, window.end)
            ids[..., piece] = self._decode("semantic", Conditions(visual=cut, joint=joint), ids[..., piece], generators)
        return ids

    def coarse(self, ids: Tensor, seeds: Sequence[int]) -> Tensor:
        """Codec levels 1 … Kc [B, Kc, T] for all of the semantic ids."""
        ratio = self.recipe.codec.rate // self.recipe.semantic_ids.rate
        codes = _unknown(len(seeds), self.recipe.stages.coarse_levels, ids.shape[2] * ratio)
        generators = _generators(seeds, "coarse")
        for window in self._windows("coarse", ids.shape[2], self.recipe.semantic_ids.rate):
            piece = slice(window.start * ratio, window.end * ratio)
            given = Conditions(prefix=ids[..., window.start : window.end])
            codes[..., piece] = self._decode("coarse", given, codes[..., piece], generators)
        return codes

    def fine(self, coarse: Tensor, seeds: Sequence[int]) -> Tensor:
        """Codec levels Kc+1 … K [B, K - Kc, T], in windows without context: the coarse codes already carry it."""
        levels = self.recipe.codec.levels - coarse.shape[1]
        codes, generators = _unknown(len(seeds), levels, coarse.shape[2]), _generators(seeds, "fine")
        length = round(self.recipe.stages.fine.window_seconds * self.recipe.codec.rate)
        for window in advance(coarse.shape[2], length, 0):
            piece = slice(window.start, window.end)
            codes[..., piece] = self._decode(
                "fine", Conditions(prefix=coarse[..., piece]), codes[..., piece], generators
            )
        return codes

    def _windows(self, stage: StageName, frames: int, rate: float) -> list[Window]:
        config, context = self.recipe.stage(stage), self.recipe.generate.context_seconds
        return advance(frames, round(config.window_seconds * rate), round(context * rate))

    def _decode(self, stage: StageName, given: Conditions, known: Tensor, generators: list[torch.Generator]) -> Tensor:
        return decode(self.stages[stage], given, known, self.recipe.sampling(stage), generators)


def generate_file(
    video: Path, out: Path, model: Path, prompt: str | None, seconds: float | None, seed: int, *, wav: bool = False
) -> dict[str, Any]:
    """Score `video` into the MP4 `out` (and a WAV beside it) with the bundle `model`; returns what was done.

    The same seed, video and model give the same audio. MediaError, PromptError or BundleError with one line.
    """
    if out.suffix.lower() != ".mp4":
        raise MediaError(out, "the scored video is an MP4 file: give a name that ends in .mp4")
    cascade = Cascade(model)
    joint = cascade.embed_prompt(prompt) if prompt is not None else None
    with Reader(cascade.recipe.media) as reader:
        length = reader.probe(video).seconds
        length = min(length, seconds) if seconds is not None else length
        visual = read_features(cascade.recipe, reader, video, length)
        with progress("generate", 1) as bar:
            waveform = cascade.generate(visual, joint, length, [seed])[0].numpy()
            bar.advance()
        rate = cascade.recipe.codec.sample_rate
        reader.mux(video, waveform, rate, out)
    if wav:
        write_wav(out.with_suffix(".wav"), waveform, rate)
    level = 10 * math.log10(float(np.mean(waveform.astype(np.float64) ** 2)) + 1e-12)
    return {
        "out": str(out),
        "seconds": round(length, 3),
        "level_dbfs": round(level, 1),
        "seed": seed,
        "model": cascade.bundle[:12],
    }


def read_features(recipe: Recipe, reader: Reader, video: Path, seconds: float) -> tuple[Tensor, ...]:
    """Features [1, V, width] of each extractor for the first `seconds` of a video, read clip by clip."""
    clip = recipe.data.clip_seconds
    starts = [i * clip for i in range(math.ceil(seconds / clip))]
    features = []
    for extractor in recipe.visual:
        frames = [reader.frames(video, extractor.rate, extractor.size, start, clip) for start in starts]
        features.append(torch.from_numpy(EXTRACTORS[extractor.kind](np.concatenate(frames)))[None])
    return tuple(features)


def _cut(features: Tensor, rate: float, start: float, stop: float) -> Tensor:
    """Features [B, V, width] on screen from `start` to `stop` seconds; at least one frame."""
    first = min(round(start * rate), features.shape[1] - 1)
    return features[:, first : max(first + 1, round(stop * rate))]


def _unknown(batch: int, levels: int, frames: int) -> Tensor:
    return torch.full((batch, levels, frames), UNKNOWN)


def _generators(seeds: Sequence[int], stage: StageName) -> list[torch.Generator]:
    """An independent random stream for each request and stage."""
    keys = [hashlib.sha256(f"{seed}/{stage}".encode()).digest()[:7] for seed in seeds]
    return [torch.Generator().manual_seed(int.from_bytes(key)) for key in keys]
