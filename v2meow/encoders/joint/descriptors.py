"""What a window of music is to the small music-text model: level, timbre, onsets, tempo and harmony in a few numbers.

Learned front ends need more music than a small catalogue has to find what these say at once.
Legend: N windows, T samples, F frames, M mel bands.
"""

from functools import lru_cache

import torch
from torch import Tensor

from v2meow.encoders.mel import log_mel

_MELS, _CLASSES = 64, 12
_FRAME_RATE = 50  # Hz, of the spectrogram
_LAGS = slice(4, 60)  # frames, 0.08 to 1.2 s: from 50 beats a minute to quavers at 375
_CHROMA_SECONDS = 0.25  # a window that tells semitones apart from 110 Hz on, the lowest that is counted
_CHROMA_HZ = (110.0, 2000.0)

WIDTH = 4 * _MELS + (_LAGS.stop - _LAGS.start) + 2 * _CLASSES


def describe_music(waveform: Tensor, sample_rate: int) -> Tensor:
    """[N, T] of equal length, at least 1.3 s → [N, WIDTH]."""
    hop = sample_rate // _FRAME_RATE
    mel = log_mel(waveform, sample_rate=sample_rate, window=4 * hop, hop=hop, mels=_MELS)
    change = torch.diff(mel, dim=1)
    onsets = change.clamp(min=0)
    chroma = _chroma(waveform, sample_rate)
    parts = (mel.mean(1), mel.std(1), onsets.mean(1), change.std(1), _rhythm(onsets), chroma.mean(1), chroma.std(1))
    return torch.cat(parts, dim=1)


def _rhythm(onsets: Tensor) -> Tensor:
    """Autocorrelation of the onset strength at the lags of beats, relative to lag 0: [N, F, M] → [N, lags]."""
    strength = onsets.mean(2)
    strength = strength - strength.mean(1, keepdim=True)
    power = torch.fft.rfft(strength, n=2 * strength.shape[1]).abs().square()  # twice as long: nothing wraps around
    correlation = torch.fft.irfft(power)
    return correlation[:, _LAGS] / correlation[:, :1].clamp(min=1e-4)


def _chroma(waveform: Tensor, sample_rate: int) -> Tensor:
    """Share of each pitch class in the magnitudes of each frame: [N, T] → [N, F, 12]; silence has none."""
    window = round(_CHROMA_SECONDS * sample_rate)
    shape, classes = _chroma_bank(window, sample_rate)
    spectrum = torch.stft(waveform, window, window // 4, window=shape, center=False, return_complex=True).abs()
    chroma = spectrum.transpose(1, 2) @ classes / window**0.5
    return chroma / chroma.sum(2, keepdim=True).clamp(min=1e-2)


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is kept must serve training too, whoever asks first
def _chroma_bank(window: int, sample_rate: int) -> tuple[Tensor, Tensor]:
    """A window, and for each of its frequencies the pitch classes [frequencies, 12] that it lies between."""
    frequency = torch.arange(window // 2 + 1) * sample_rate / window
    pitch = 12 * torch.log2(frequency.clamp(min=1.0) / 440) % _CLASSES
    below, share = pitch.floor(), pitch % 1
    bank, rows = torch.zeros(len(frequency), _CLASSES), torch.arange(len(frequency))
    bank[rows, below.long() % _CLASSES] += 1 - share
    bank[rows, (below.long() + 1) % _CLASSES] += share
    low, high = _CHROMA_HZ
    return torch.hann_window(window), bank * ((frequency >= low) & (frequency <= high))[:, None]
