"""What the sound of a clip is like, in figures: loudness, silence, clipping, whether it is music, how fast it goes.

Pure functions on a mono waveform, float32 [T] in [-1, 1] at `rate` Hz. Knows no files and no models, so that
a catalogue can be described without a download.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyloudnorm
from numpy.lib.stride_tricks import sliding_window_view

SILENCE_DB = -91.0  # floor of loudness: what FFmpeg's volumedetect calls digital silence
SILENCE_LUFS = -70.0  # below it nothing is counted (EBU R128's absolute gate)

_SILENT_DB = -60.0  # of a stretch of 100 ms
_FULL_SCALE = 0.998  # a sample beyond it is clipped: encoders round the last step
_FRAME_S = 0.05  # of the spectra that tones and beats are looked for in
_TONE_S = 1.0  # a tone of music stands still so long, one of speech does not
_STRONGEST = 5  # tones counted in each stretch
_BINS_AROUND = 10  # on either side, over which a tone rises above the mean
_TONE_DB = 6.0  # by how much
_BEAT_HOP_S = 0.01
_TEMPI = (40.0, 240.0)  # beats a minute
_USUAL, _OCTAVES = 120.0, 0.9  # centre and width of the tempi that people tap (Ellis 2007, section 3.2)
_ONSET = 0.002  # standard deviation of onset strength below which nothing begins: quiet music has ten times as much
_BEAT_STRENGTH = 0.1  # of the autocorrelation of onsets, below which there is no beat


@dataclass(frozen=True, kw_only=True)
class Sound:
    """Figures of one clip: dBFS RMS; LUFS after EBU R128; shares of 0 … 1; beats a minute, 0 without a beat."""

    loudness_db: float
    lufs: float
    silent_share: float
    clipped_share: float
    music_score: float
    tempo: float


_NOTHING = Sound(
    loudness_db=SILENCE_DB, lufs=SILENCE_LUFS, silent_share=1.0, clipped_share=0.0, music_score=0.0, tempo=0.0
)


def describe(waveform: np.ndarray, rate: int) -> Sound:
    """All figures of a clip, rounded to what they are good for."""
    if not np.any(waveform):
        return _NOTHING  # hours of it are looked through in seconds
    return _describe(waveform, rate)


def _describe(waveform: np.ndarray, rate: int) -> Sound:
    return Sound(
        loudness_db=decibels(float(np.mean(np.square(waveform, dtype=np.float64)))),
        lufs=round(lufs(waveform, rate), 2),
        silent_share=round(silent_share(waveform, rate), 4),
        clipped_share=round(float(np.mean(np.abs(waveform) >= _FULL_SCALE)), 6),
        music_score=round(music_score(waveform, rate), 3),
        tempo=round(tempo(waveform, rate), 1),
    )


def decibels(power: float) -> float:
    """dB of a mean square, no lower than digital silence."""
    return SILENCE_DB if power == 0 else max(10 * math.log10(power), SILENCE_DB)


def lufs(waveform: np.ndarray, rate: int) -> float:
    """Integrated loudness after EBU R128 (ITU-R BS.1770-4) of the mono downmix."""
    block = 0.4
    if len(waveform) < block * rate or not np.any(waveform):
        return SILENCE_LUFS
    with np.errstate(divide="ignore", invalid="ignore"):  # silent blocks have a loudness of -inf
        found = float(_meter(rate).integrated_loudness(waveform.astype(np.float64)))
    return max(found, SILENCE_LUFS) if math.isfinite(found) else SILENCE_LUFS


def silent_share(waveform: np.ndarray, rate: int) -> float:
    """Share of the stretches of 100 ms below -60 dBFS."""
    length = rate // 10
    if len(waveform) < length:
        return float(not np.any(waveform))
    stretches = waveform[: len(waveform) // length * length].reshape(-1, length)
    power = np.mean(np.square(stretches, dtype=np.float64), axis=1)
    return float(np.mean(power < 10 ** (_SILENT_DB / 10)))


def music_score(waveform: np.ndarray, rate: int) -> float:
    """How much of the sound is tones that stand still: near 0 for noise and percussion, high for sustained harmony.

    The mean over stretches of 1 s of the five tones that last longest, each in shares of the stretch. A tone is a
    frequency that rises 6 dB above its neighbours; the usual share of its neighbours' is taken off, so that noise
    scores nothing. After continuous frequency activation (Seyerlehner, Pohle, Schedl & Widmer, "Automatic music
    detection in television productions", DAFx 2007). Music of drums alone scores like noise: a hint, no verdict.
    """
    if len(waveform) < _TONE_S * rate:
        return 0.0
    level = 20 * np.log10(_spectra(waveform, rate, _FRAME_S, _FRAME_S / 2) + 1e-5)
    level = level[:, : max(2 * _BINS_AROUND + 2, round(5_000 * level.shape[1] / (rate / 2)))]  # up to 5 kHz
    padded = np.pad(level, ((0, 0), (_BINS_AROUND, _BINS_AROUND)), mode="edge")
    around = sliding_window_view(padded, 2 * _BINS_AROUND + 1, axis=1).mean(axis=-1)
    active = (level > around + _TONE_DB) & (level > -60)
    length = round(_TONE_S / (_FRAME_S / 2))
    stretches = active[: len(active) // length * length].reshape(-1, length, active.shape[1]).mean(axis=1)
    padded = np.pad(stretches, ((0, 0), (_BINS_AROUND, _BINS_AROUND)), mode="edge")
    usual = np.median(sliding_window_view(padded, 2 * _BINS_AROUND + 1, axis=1), axis=-1)
    strongest = np.sort(np.maximum(stretches - usual, 0), axis=1)[:, -_STRONGEST:]
    return float(strongest.mean()) if len(stretches) else 0.0


def tempo(waveform: np.ndarray, rate: int) -> float:
    """Beats a minute, 0 without a beat: the lag at which onsets repeat most, weighted by what people tap.

    Onset strength is the rise of the logarithmic spectrum; its autocorrelation is weighted by a Gaussian over
    octaves about 120 (Ellis, "Beat tracking by dynamic programming", JNMR 2007). Off by a factor of 2 at times.
    """
    spectra = np.log1p(1_000 * _spectra(waveform, rate, 0.04, _BEAT_HOP_S))
    onsets = np.maximum(np.diff(spectra, axis=0), 0).mean(axis=1)
    longest = round(60 / _TEMPI[0] / _BEAT_HOP_S)
    if len(onsets) < 2 * longest or onsets.std() < _ONSET:
        return 0.0
    onsets = onsets - onsets.mean()
    power = np.abs(np.fft.rfft(onsets, 2 * len(onsets))) ** 2
    lags = np.arange(round(60 / _TEMPI[1] / _BEAT_HOP_S), longest + 1)
    repeats = np.fft.irfft(power)[lags] / (onsets @ onsets) * len(onsets) / (len(onsets) - lags)
    tempi = 60 / (lags * _BEAT_HOP_S)
    weighted = repeats * np.exp(-0.5 * (np.log2(tempi / _USUAL) / _OCTAVES) ** 2)
    best = int(np.argmax(weighted))
    beats = float(60 / ((lags[best] + _vertex(weighted, best)) * _BEAT_HOP_S))
    return beats if repeats[best] > _BEAT_STRENGTH else 0.0


def _vertex(curve: np.ndarray, at: int) -> float:
    """Where between its neighbours a peak lies, -0.5 … 0.5, by the parabola through the three."""
    if not 0 < at < len(curve) - 1:
        return 0.0
    before, here, after = curve[at - 1 : at + 2]
    bend = before - 2 * here + after
    return 0.0 if bend == 0 else float(np.clip((before - after) / (2 * bend), -0.5, 0.5))


def _spectra(waveform: np.ndarray, rate: int, seconds: float, hop: float) -> np.ndarray:
    """Amplitudes of frames of so many seconds, each a hop after the last: float32 [frames, bins]."""
    length, step = round(seconds * rate), round(hop * rate)
    if len(waveform) < length:
        return np.zeros((0, length // 2 + 1), np.float32)
    window = np.hanning(length).astype(np.float32)
    frames = sliding_window_view(waveform, length)[::step] * window
    return np.abs(np.fft.rfft(frames, axis=1)).astype(np.float32) * (2 / window.sum())


@cache
def _meter(rate: int) -> pyloudnorm.Meter:
    return pyloudnorm.Meter(rate)
