"""Training the small codec: reconstruction of the spectrum and of multi-scale log-mel, plus commitment."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from v2meow.encoders.codec import Codec
from v2meow.encoders.mel import log_mel
from v2meow.train.optim import make_optimizer, rate_at, set_rate

# Spectrum, log-mel and commitment terms, chosen so that each weighs about equally at the start.
_SPECTRUM_WEIGHT, _MEL_WEIGHT, _COMMITMENT_WEIGHT = 10.0, 0.5, 0.25
_MEL_WINDOWS = (512, 1024, 2048)


def train_codec(codec: Codec, waveforms: Tensor, seed: int, on_step: Callable[[float], None]) -> None:
    """Fit `codec` in place to waveforms [N, T]: codebooks by residual k-means, then everything by gradient."""
    config = codec.config
    generator = torch.Generator().manual_seed(seed)
    codec.initialise_codebooks(_sample_frames(codec, waveforms, generator), generator)
    optimizer = make_optimizer(codec, config.learning_rate, 1e-4)
    segment = min(waveforms.shape[1], round(config.segment_seconds * config.sample_rate)) // config.hop * config.hop
    codec.train()
    for step in range(config.steps):
        set_rate(optimizer, rate_at(step, peak=config.learning_rate, warmup=min(20, config.steps), total=config.steps))
        loss = codec_loss(codec, _segments(waveforms, config.batch, segment, generator))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimizer.step()
        on_step(loss.item())
    codec.eval()


def codec_loss(codec: Codec, waveform: Tensor) -> Tensor:
    """The training loss of a batch [B, T]. The last hop is left out: its overlapping frame is missing."""
    spectrum, decoded, restored, commitment = codec(waveform)
    hop = codec.config.hop
    mel = mel_distance(restored[:, :-hop], waveform[:, :-hop], codec.config.sample_rate)
    shape = (decoded - spectrum).square().mean()
    return _SPECTRUM_WEIGHT * shape + _MEL_WEIGHT * mel + _COMMITMENT_WEIGHT * commitment


def mel_distance(a: Tensor, b: Tensor, sample_rate: int) -> Tensor:
    """Mean absolute difference of log-mel spectrograms [B, T] over several windows, in nepers."""

    def mel(waveform: Tensor, window: int) -> Tensor:
        return log_mel(waveform, sample_rate=sample_rate, window=window, hop=window // 4, mels=min(64, window // 8))

    return torch.stack([(mel(a, window) - mel(b, window)).abs().mean() for window in _MEL_WINDOWS]).mean()


def si_sdr(estimate: Tensor, reference: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB of [B, T] (Le Roux et al., arXiv 1811.02508): [B]."""
    scale = (estimate * reference).sum(-1, keepdim=True) / reference.square().sum(-1, keepdim=True).clamp(min=1e-9)
    target = scale * reference
    noise = (estimate - target).square().sum(-1).clamp(min=1e-9)
    return 10 * torch.log10(target.square().sum(-1).clamp(min=1e-9) / noise)


@torch.inference_mode()
def reconstruction(codec: Codec, waveforms: Tensor) -> dict[str, float]:
    """What encoding and decoding costs on waveforms [N, T]: SI-SDR (dB), log-mel distance, codebook use, kbit/s."""
    codes = codec.encode(waveforms)
    restored, hop, config = codec.decode(codes), codec.config.hop, codec.config
    used = [len(torch.unique(codes[:, level])) / config.bins for level in range(config.levels)]
    return {
        "si_sdr_db": float(si_sdr(restored[:, :-hop], waveforms[:, :-hop]).mean()),
        "mel_distance": float(mel_distance(restored[:, :-hop], waveforms[:, :-hop], config.sample_rate)),
        "codebook_use": sum(used) / len(used),
        "kilobits_per_second": config.rate * config.levels * math.log2(config.bins) / 1000,
    }


def _sample_frames(codec: Codec, waveforms: Tensor, generator: torch.Generator) -> Tensor:
    """At most `sample_frames` random frames [N, hop] of the spectra."""
    with torch.no_grad():
        frames = torch.cat([codec.spectrum(part).transpose(1, 2).flatten(0, 1) for part in waveforms.split(16)])
    return frames[torch.randperm(len(frames), generator=generator)[: codec.config.sample_frames]]


def _segments(waveforms: Tensor, count: int, length: int, generator: torch.Generator) -> Tensor:
    """Random pieces [count, length]."""
    rows = torch.randint(0, len(waveforms), (count,), generator=generator)
    starts = torch.randint(0, waveforms.shape[1] - length + 1, (count,), generator=generator)
    return torch.stack([waveforms[row, start : start + length] for row, start in zip(rows, starts, strict=True)])
