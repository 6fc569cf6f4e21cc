"""What anybody would hear first: loudness, silence, clipping, and music that goes round in circles.

Pure functions on waveforms [N, T] and ids [N, S], one value a piece.
"""

import math
import warnings

import numpy as np
import pyloudnorm
from torch import Tensor

from v2meow.encoders.mel import log_mel

REPEATED_S = 1.0  # a stretch of this length that was there before counts as repeated
_RATE = 10  # Hz of the frames that are compared for self-similarity
_QUIETEST = -70.0  # LUFS, the absolute gate of BS.1770: what is quieter has no loudness of its own


def loudness(waveforms: Tensor, sample_rate: int) -> np.ndarray:
    """Integrated loudness in LUFS [N] (ITU-R BS.1770-4, EBU R 128); -70 for silence and for less than 0.4 s."""
    if waveforms.shape[1] < 0.4 * sample_rate:
        return np.full(len(waveforms), _QUIETEST)
    meter = pyloudnorm.Meter(sample_rate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of the logarithm of silence
        found = [meter.integrated_loudness(waveform.numpy()) for waveform in waveforms]
    return np.array([max(value, _QUIETEST) if math.isfinite(value) else _QUIETEST for value in found])


def repeated_share(ids: Tensor, length: int) -> np.ndarray:
    """Share of each piece's ids [N, S] in stretches of `length` that stood in it before: [N].

    A stretch that only holds one id is no repetition: a held note is none.
    """
    shares = []
    for piece in ids.numpy():
        seen: set[bytes] = set()
        repeated = np.zeros(len(piece), bool)
        for place in range(len(piece) - length + 1):
            part = piece[place : place + length]
            key = part.tobytes()
            if key in seen and (part != part[0]).any():
                repeated[place : place + length] = True
            seen.add(key)
        shares.append(repeated.mean())
    return np.array(shares)


def self_similarity(waveforms: Tensor, sample_rate: int) -> np.ndarray:
    """How much each piece [N, T] resembles itself at the best lag: a cosine [N].

    Of its timbre and melody (log-mel frames, their mean taken off) at all lags of 1 s up to half of the piece.
    """
    hop = sample_rate // _RATE
    frames = log_mel(waveforms, sample_rate=sample_rate, window=2 * hop, hop=hop, mels=40).numpy()
    frames = frames - frames.mean(1, keepdims=True)
    count = frames.shape[1]
    lags = range(_RATE, max(count // 2, _RATE) + 1)
    found = [_cosine(frames[:, lag:], frames[:, : count - lag]) for lag in lags if lag < count]
    return np.max(found, axis=0) if found else np.zeros(len(frames))


def _cosine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of whole sequences [N, F, D], flattened: [N]."""
    a, b = one.reshape(len(one), -1), other.reshape(len(other), -1)
    return (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-9)
