"""Log-mel spectrograms, the one audio front end of the extractors that are trained here."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F
from torchaudio.functional import melscale_fbanks

FLOOR = 1e-2  # of magnitude per square root of the window: about -60 dB under a full-scale tone


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is kept must serve training too, whoever asks first
def _window_and_banks(window: int, mels: int, sample_rate: int) -> tuple[Tensor, Tensor]:
    banks = melscale_fbanks(window // 2 + 1, 0.0, sample_rate / 2, mels, sample_rate)
    return torch.hann_window(window), banks


def log_mel(waveform: Tensor, *, sample_rate: int, window: int, hop: int, mels: int) -> Tensor:
    """Natural log of mel magnitudes: [B, T] → [B, T / hop, mels]; frame i is centred on sample (i + 0.5) hop."""
    shape, banks = _window_and_banks(window, mels, sample_rate)
    padded = F.pad(waveform, ((window - hop) // 2, window - hop - (window - hop) // 2))
    spectrum = torch.stft(padded, window, hop, window=shape, center=False, return_complex=True).abs()
    return torch.log((spectrum.transpose(1, 2) @ banks / window**0.5).clamp(min=FLOOR))
