"""What is clustered: frames of music at the rate of the ids, frame i of the time from i / rate to (i + 1) / rate.

Legend: B batch, T samples, S frames of the ids, F frames of a model, D width.
"""

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from v2meow.config import MelIdsConfig
from v2meow.encoders.mel import log_mel


class Frames(Protocol):
    """Waveforms [B, T] at `sample_rate` Hz → features float32 [B, T // (sample_rate / rate), width]."""

    sample_rate: int
    width: int

    def __call__(self, waveform: Tensor) -> Tensor: ...


class MelFrames:
    """Log-mel magnitudes; the window spans 1.6 ids."""

    def __init__(self, config: MelIdsConfig, sample_rate: int) -> None:
        self.sample_rate, self.width = sample_rate, config.mels
        self._hop = sample_rate // config.rate

    def __call__(self, waveform: Tensor) -> Tensor:
        window = int(1.6 * self._hop) // 2 * 2
        return log_mel(waveform, sample_rate=self.sample_rate, window=window, hop=self._hop, mels=self.width)


def frames_needed(count: int, rate: float, own_rate: float) -> int:
    """Frames of a model at `own_rate` Hz that cover `count` frames at `rate` Hz."""
    return math.ceil(round(count * own_rate / rate, 6))


def centred(waveform: Tensor, frames: int, hop: int, reach: int) -> Tensor:
    """[B, T] → [B, (frames - 1) * hop + reach] with silence around it, so that the `reach` samples of frame i are
    centred on sample (i + 0.5) * hop of the original."""
    before, length = (reach - hop) // 2, (frames - 1) * hop + reach
    return F.pad(waveform, (before, max(0, length - before - waveform.shape[1])))[:, :length]


def change_rate(frames: Tensor, own_rate: float, rate: float, count: int) -> Tensor:
    """[B, F, D] at `own_rate` Hz → [B, count, D] at `rate` Hz: means over the time that frames have in common.

    Both start at time 0. Where one rate divides the other this is a mean of whole frames, or their repetition.
    """
    ends = torch.arange(1, count + 1, dtype=torch.float64)[:, None] / rate
    own_ends = torch.arange(1, frames.shape[1] + 1, dtype=torch.float64) / own_rate
    common = torch.minimum(ends, own_ends) - torch.maximum(ends - 1 / rate, own_ends - 1 / own_rate)
    shares = common.clamp(min=0)
    shares = shares / shares.sum(1, keepdim=True)
    return shares.to(frames) @ frames
