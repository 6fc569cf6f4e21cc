"""How well a codec restores music: distances between a waveform and its reconstruction.

Legend: B waveforms of T samples.
"""

import torch
from torch import Tensor

from v2meow.encoders.mel import log_mel

_MEL_WINDOWS = (512, 1024, 2048)
_LINE_HZ = 1.0  # half the width of a line of the comb


def mel_distance(a: Tensor, b: Tensor, sample_rate: int) -> Tensor:
    """Mean absolute difference of log-mel spectrograms of [B, T] over several windows, in nepers."""

    def mel(waveform: Tensor, window: int) -> Tensor:
        return log_mel(waveform, sample_rate=sample_rate, window=window, hop=window // 4, mels=min(64, window // 8))

    return torch.stack([(mel(a, window) - mel(b, window)).abs().mean() for window in _MEL_WINDOWS]).mean()


def si_sdr(estimate: Tensor, reference: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB of [B, T] (Le Roux et al., arXiv 1811.02508): [B]."""
    scale = (estimate * reference).sum(-1, keepdim=True) / reference.square().sum(-1, keepdim=True).clamp(min=1e-9)
    target = scale * reference
    noise = (estimate - target).square().sum(-1).clamp(min=1e-9)
    return 10 * torch.log10(target.square().sum(-1).clamp(min=1e-9) / noise)


def buzz_db(estimate: Tensor, reference: Tensor, sample_rate: int, frame_rate: float) -> float:
    """How far lines at multiples of the frame rate stand out of the error of [B, T], in dB; 0 is not at all.

    Frames that do not join leave such a comb, which is heard as a buzz of that pitch. Each line is compared with as
    wide a band halfway to the next; the median over the lines passes over those where the music has a tone. Give a
    second or more, so that lines are apart.
    """
    samples = estimate.shape[-1]
    error = (torch.fft.rfft((estimate - reference) * torch.hann_window(samples)).abs() ** 2).sum(0)
    density = torch.cat((error.new_zeros(1), error.cumsum(0, dtype=torch.float64)))
    centres = frame_rate * torch.arange(1, int(sample_rate / 2 / frame_rate))

    def power(hertz: Tensor) -> Tensor:
        low, high = (((hertz + side * _LINE_HZ) * samples / sample_rate).round().long() for side in (-1, 1))
        return density[high + 1] - density[low]

    floor = 1e-9 * density[-1] + 1e-12
    return float(10 * torch.log10((power(centres) + floor) / (power(centres + frame_rate / 2) + floor)).median())
