"""What can be heard in a waveform: level, clipping, tempo, mode and timbre. Pure functions on audio.

Legend: N waveforms of T samples, float32 in -1 … 1.
"""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from v2meow.encoders.mel import log_mel
from v2meow.evaluate import beats

SILENT_DBFS = -45.0
ENVELOPE_RATE = 100  # Hz
_ONSET = 1.0  # rise of the bands together, in nepers, below which nothing begins
_CUT = 5  # values at the end that see music break off: a click, but no note
_BLURRED_S = 0.05  # bands of one note do not rise in the same instant
_FULL_SCALE = 0.999
_TEMPI = np.arange(60.0, 181.0, 0.5)  # beats a minute that are tried
# Probe-tone ratings of Krumhansl & Kessler (1982), from the tonic upwards.
_MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
_MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)


def level_dbfs(waveforms: Tensor) -> np.ndarray:
    """RMS level in dBFS of each of [N, T]; digital silence is -120."""
    return (10 * torch.log10(waveforms.square().mean(1).clamp(min=1e-12))).numpy()


def clipped_share(waveforms: Tensor) -> np.ndarray:
    """Share of samples at full scale in each of [N, T]."""
    return (waveforms.abs() >= _FULL_SCALE).float().mean(1).numpy()


def onset_strength(waveforms: Tensor, sample_rate: int) -> np.ndarray:
    """How much comes in at each moment, [N, F] at ENVELOPE_RATE: the rise of the log-mel bands, summed; 0 at first."""
    hop = sample_rate // ENVELOPE_RATE
    mel = log_mel(waveforms, sample_rate=sample_rate, window=4 * hop, hop=hop, mels=40)
    return torch.diff(mel, dim=1, prepend=mel[:, :1]).clamp(min=0).sum(2).numpy()


def level_curve(waveforms: Tensor, sample_rate: int) -> np.ndarray:
    """RMS of each moment, [N, F] at ENVELOPE_RATE, in 0 … 1."""
    return (
        waveforms.unfold(1, sample_rate // ENVELOPE_RATE, sample_rate // ENVELOPE_RATE).square().mean(2).sqrt().numpy()
    )


def onset_times(waveforms: Tensor, sample_rate: int) -> list[np.ndarray]:
    """When notes begin in each of [N, T], in seconds."""
    strength = beats.smoothed(onset_strength(waveforms, sample_rate), ENVELOPE_RATE, _BLURRED_S)
    strength[:, -_CUT:] = 0.0
    return [beats.peaks(curve, ENVELOPE_RATE, floor=_ONSET) for curve in strength]


def tempo(waveforms: Tensor, sample_rate: int) -> np.ndarray:
    """Beats a minute of each of [N, T]: the strongest period of the onset envelope and of its multiples."""
    onsets = torch.from_numpy(onset_strength(waveforms, sample_rate)[:, 1:])
    onsets = onsets - onsets.mean(1, keepdim=True)
    spectrum = torch.fft.rfft(onsets, n=2 * onsets.shape[1])
    correlation = torch.fft.irfft(spectrum.abs() ** 2)[:, : onsets.shape[1]].numpy()
    lags = np.outer((1, 2, 4), 60 * ENVELOPE_RATE / _TEMPI)  # one, two and four beats
    places = np.arange(correlation.shape[1])
    strength = [sum(np.interp(lag, places, row, right=0.0) for lag in lags) for row in correlation]
    return _TEMPI[np.argmax(strength, axis=1)]


def mode(waveforms: Tensor, sample_rate: int) -> list[str]:
    """The mode of each of [N, T], "major" or "minor": the better of the 24 key profiles on the chroma."""
    chroma = _chroma(waveforms, sample_rate)
    chroma = (chroma - chroma.mean(1, keepdims=True)) / (chroma.std(1, keepdims=True) + 1e-9)

    def best(profile: tuple[float, ...]) -> np.ndarray:
        shape = (np.array(profile) - np.mean(profile)) / np.std(profile)
        return np.max([chroma @ np.roll(shape, key) for key in range(12)], axis=0)

    return ["major" if major > minor else "minor" for major, minor in zip(best(_MAJOR), best(_MINOR), strict=True)]


def _chroma(waveforms: Tensor, sample_rate: int) -> np.ndarray:
    """Energy of the twelve pitch classes [N, 12], C first, from 100 Hz to 2 kHz."""
    window = 4096
    spectrum = torch.stft(waveforms, window, window // 4, window=torch.hann_window(window), return_complex=True)
    energy = spectrum.abs().mean(2).numpy()
    frequency = np.fft.rfftfreq(window, 1 / sample_rate)
    heard = (frequency > 100) & (frequency < 2000)
    pitch = np.round(12 * np.log2(frequency[heard] / 261.63)).astype(int) % 12
    return np.stack([energy[:, heard][:, pitch == p].sum(1) for p in range(12)], axis=1)


def timbre_features(waveforms: Tensor, sample_rate: int) -> np.ndarray:
    """Level-free spectral shape [N, 120]: mean, spread and change of the log-mel bands over time."""
    mel = log_mel(waveforms, sample_rate=sample_rate, window=1024, hop=256, mels=40)
    shape = mel.mean(1) - mel.mean((1, 2), keepdim=True)[:, 0]
    return torch.cat((shape, mel.std(1), torch.diff(mel, dim=1).abs().mean(1)), dim=1).numpy()


def fit_timbre(waveforms: Tensor, labels: list[str], sample_rate: int) -> Pipeline:
    """A classifier of timbre from labelled waveforms [N, T]."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    return classifier.fit(timbre_features(waveforms, sample_rate), labels)
