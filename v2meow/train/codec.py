"""The step `fit codec`: training the small codec, or measuring a published one.

Training is reconstruction of the spectrum and of multi-scale log-mel, plus commitment; where a recipe says so, against
EnCodec's discriminator besides.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from v2meow.config import EncodecConfig, LappedCodecConfig, Recipe, RecipeError
from v2meow.data.manifest import Clip
from v2meow.encoders.audio import describe
from v2meow.encoders.codec import Codec, LappedCodec, new_pretrained
from v2meow.encoders.codec.measures import buzz_db, mel_distance, si_sdr
from v2meow.progress import progress
from v2meow.train.adversary import Adversary
from v2meow.train.music import of_split, read_music, sample
from v2meow.train.optim import make_optimizer, rate_at, set_rate

# Spectrum, log-mel and commitment terms, chosen so that each weighs about equally at the start.
_SPECTRUM_WEIGHT, _MEL_WEIGHT, _COMMITMENT_WEIGHT = 10.0, 0.5, 0.25
_HELD_OUT_CLIPS = 16  # that a codec is measured on
_MOST_PASSES = 8  # over a small catalogue, each at other shifts


def fit_codec(recipe: Recipe, workspace: Path) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """Weights, config.json and metrics of the recipe's codec; a published one keeps its weights in the asset's folder.

    RecipeError when the catalogue is too small for the codebooks.
    """
    config, metrics = recipe.codec, {}
    if isinstance(config, EncodecConfig):
        codec, module = new_pretrained(config), nn.Module()
    else:
        module = codec = LappedCodec(config)
        metrics["curve"] = _train(codec, _training_music(recipe, config, workspace), recipe.seed)
    held_out = sample(of_split(workspace, "holdout"), _HELD_OUT_CLIPS, recipe.seed)
    metrics |= reconstruction(codec, _waveforms(recipe, workspace, held_out))
    return module, describe(config, config.sample_rate), metrics


def train_codec(codec: LappedCodec, waveforms: Tensor, seed: int, on_step: Callable[[float], None]) -> None:
    """Fit `codec` in place to waveforms [N, T]: codebooks by residual k-means, then everything by gradient."""
    config = codec.config
    generator = torch.Generator().manual_seed(seed)
    codec.initialise_codebooks(_sample_frames(codec, waveforms, generator), generator)
    optimizer = make_optimizer(codec, config.learning_rate, 1e-4)
    adversary = Adversary(config) if config.adversarial_weight else None
    segment = min(waveforms.shape[1], round(config.segment_seconds * config.sample_rate)) // config.hop * config.hop
    codec.train()
    for step in range(config.steps):
        set_rate(optimizer, rate_at(step, peak=config.learning_rate, warmup=min(20, config.steps), total=config.steps))
        optimizer.zero_grad(set_to_none=True)
        loss = _backward(codec, _segments(waveforms, config.batch, segment, generator), adversary)
        torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimizer.step()
        on_step(loss)
    codec.eval()


def codec_loss(codec: LappedCodec, waveform: Tensor) -> Tensor:
    """The training loss of a batch [B, T], without a discriminator."""
    rest, mel, _, _ = _terms(codec, waveform)
    return rest + mel


def _backward(codec: LappedCodec, waveform: Tensor, adversary: Adversary | None) -> float:
    """Gradients of a batch [B, T]; with an adversary, which learns too, those at the waveform are balanced."""
    rest, mel, restored, heard = _terms(codec, waveform)
    if adversary is None:
        (rest + mel).backward()
    else:
        torch.autograd.backward((rest, restored), (None, adversary.gradient(mel, restored, heard)))
        adversary.learn(restored, heard)
    return (rest + mel).item()


def _terms(codec: LappedCodec, waveform: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses that are not of the waveform, log-mel's, and the waveforms [B, T - hop] restored and heard.

    The last hop is left out: its overlapping frame is missing.
    """
    spectrum, decoded, restored, commitment = codec(waveform)
    restored, heard = (sound[:, : -codec.config.hop] for sound in (restored, waveform))
    rest = _SPECTRUM_WEIGHT * (decoded - spectrum).square().mean() + _COMMITMENT_WEIGHT * commitment
    return rest, _MEL_WEIGHT * mel_distance(restored, heard, codec.config.sample_rate), restored, heard


@torch.no_grad()
def reconstruction(codec: Codec, waveforms: Tensor) -> dict[str, float]:
    """What encoding and decoding costs on waveforms [N, T].

    SI-SDR (dB), log-mel distance, how far a comb at the frame rate stands out of the error (dB), codebook use, kbit/s.
    """
    codes, config = codec.encode(waveforms), codec.config
    restored, heard = (sound[:, : -config.hop] for sound in (codec.decode(codes), waveforms))
    used = [len(torch.unique(codes[:, level])) / config.bins for level in range(config.levels)]
    return {
        "si_sdr_db": float(si_sdr(restored, heard).mean()),
        "mel_distance": float(mel_distance(restored, heard, config.sample_rate)),
        "buzz_db": buzz_db(restored, heard, config.sample_rate, config.rate),
        "codebook_use": sum(used) / len(used),
        "kilobits_per_second": config.rate * config.levels * math.log2(config.bins) / 1000,
    }


def _train(codec: LappedCodec, waveforms: Tensor, seed: int) -> list[dict[str, float]]:
    curve: list[dict[str, float]] = []
    with progress("train the codec", codec.config.steps) as bar:

        def on_step(loss: float) -> None:
            bar.advance(note=f"loss {loss:.3f}")
            curve.append({"step": len(curve), "loss": loss})

        train_codec(codec, waveforms, seed, on_step)
    return curve


def _training_music(recipe: Recipe, config: LappedCodecConfig, workspace: Path) -> Tensor:
    wanted = math.ceil(2 * config.sample_frames / recipe.codec_frames)
    waveforms = _waveforms(recipe, workspace, sample(of_split(workspace, "train"), wanted, recipe.seed))
    if waveforms.shape[0] * recipe.codec_frames < config.bins:
        raise RecipeError(f"codec.bins: {config.bins} codebook entries need more audio than the catalogue has")
    return waveforms


def _waveforms(recipe: Recipe, workspace: Path, clips: list[Clip]) -> Tensor:
    """Waveforms [N, T] of the clips that can be read."""
    parts = [waveforms for _, waveforms in read_music(recipe, workspace, clips)]
    if not parts:
        raise RecipeError("codec: none of the clips that it is fitted to or measured on can be read")
    return torch.cat(parts)


def _sample_frames(codec: LappedCodec, waveforms: Tensor, generator: torch.Generator) -> Tensor:
    """About `sample_frames` random frames [N, hop] of the spectra, at random shifts of less than a frame.

    A tone's coefficients depend on where the frame cuts its wave. Frames of the grid alone are too few of these:
    codebooks fitted to 15,000 of them restored held-out music 1.4 dB worse than those of as many shifted ones.
    """
    hop, wanted = codec.config.hop, codec.config.sample_frames
    parts, found = [], 0
    for _ in range(_MOST_PASSES):
        for part in waveforms[torch.randperm(len(waveforms), generator=generator)].split(16):
            shift = int(torch.randint(0, hop, (), generator=generator)) if part.shape[1] > hop else 0
            shifted = part[:, shift : shift + (part.shape[1] - shift) // hop * hop]
            with torch.no_grad():
                parts.append(codec.spectrum(shifted).transpose(1, 2).flatten(0, 1))
            found += len(parts[-1])
        if found >= wanted:
            break
    frames = torch.cat(parts)
    return frames[torch.randperm(len(frames), generator=generator)[:wanted]]


def _segments(waveforms: Tensor, count: int, length: int, generator: torch.Generator) -> Tensor:
    """Random pieces [count, length]."""
    rows = torch.randint(0, len(waveforms), (count,), generator=generator)
    starts = torch.randint(0, waveforms.shape[1] - length + 1, (count,), generator=generator)
    return torch.stack([waveforms[row, start : start + length] for row, start in zip(rows, starts, strict=True)])
