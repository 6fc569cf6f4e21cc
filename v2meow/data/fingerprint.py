"""What is left of a video's sound and pictures after encoding, scaling, trimming and a change of volume.

Pure functions on arrays; `similar` says which videos share enough of it.
"""

import numpy as np
from scipy.signal import decimate

FRAME_HOP_S = 0.025  # between the frames of sound that keys are taken from
PICTURE_SIDE = 9  # pixels of the squares that pictures are squeezed to before they are hashed
PLAIN = np.uint64(0)  # the hash of a picture without much in it

_FRAME_S = 0.37  # of sound: long beside its hop, so that a trimmed copy meets nearly the same frames
_LOWEST_RATE = 5_000  # Hz that sound is thinned out to, at least
_BANDS = np.geomspace(300.0, 2_000.0, 34)  # edges in Hz
_KEPT = 8  # one key in so many is kept, chosen by its own value: the same ones in every copy
_QUIET = 1e-7  # mean power of a frame that holds nothing
_STEP = 2.0  # grey levels between neighbours: where most differ by less, a hash cannot tell a picture


def sound_keys(waveform: np.ndarray, rate: int, start: float = 0.0) -> np.ndarray:
    """Keys of a mono waveform, float32 [T], which begins at `start` seconds: uint32 [N, 2] of (key, time in hops).

    A key has a bit for each two neighbouring bands of 33, between 300 and 2,000 Hz: whether their difference grew
    since the frame before (Haitsma & Kalker, "A highly robust audio fingerprinting system", ISMIR 2002, section 4.2).
    """
    if not np.any(waveform):
        return np.zeros((0, 2), np.uint32)
    factor = max(1, rate // _LOWEST_RATE)
    thin = decimate(waveform, factor, ftype="fir").astype(np.float32) if factor > 1 else waveform
    rate_now = rate / factor
    length = round(_FRAME_S * rate_now)
    first = int(np.ceil(start / FRAME_HOP_S))
    last = int((start + len(thin) / rate_now - _FRAME_S) / FRAME_HOP_S)
    if last <= first:
        return np.zeros((0, 2), np.uint32)
    begins = np.round((np.arange(first, last + 1) * FRAME_HOP_S - start) * rate_now).astype(int)
    begins = begins[begins + length <= len(thin)]
    frames = thin[begins[:, None] + np.arange(length)] * np.hanning(length).astype(np.float32)
    power = np.abs(np.fft.rfft(frames, 2048, axis=1)) ** 2
    edges = np.round(_BANDS * 2048 / rate_now).astype(int)
    energy = np.add.reduceat(power, edges, axis=1)[:, :-1]  # [frames, 33]; the last one is what lies above
    grows = np.diff(np.diff(energy, axis=1), axis=0) > 0
    keys = np.packbits(grows, axis=1).view(">u4").ravel().astype(np.uint32)
    heard = np.mean(frames[1:] ** 2, axis=1) > _QUIET
    kept = heard & (_scattered(keys) % _KEPT == 0)
    return np.stack([keys, np.arange(first + 1, first + 1 + len(keys), dtype=np.uint32)], axis=1)[kept]


def picture_hashes(frames: np.ndarray) -> np.ndarray:
    """A hash of each picture, uint8 [V, 9, 9, 3]: uint64 [V], a bit for each pixel that is darker than the next.

    The "difference hash" (Krawetz 2013) of the upper 8 rows' grey levels. 0 for plain pictures.
    """
    assert frames.shape[1:] == (PICTURE_SIDE, PICTURE_SIDE, 3), frames.shape
    grey = frames.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    steps = np.diff(grey, axis=2)[:, :8].reshape(len(frames), 64)
    hashes = np.packbits(steps > 0, axis=1).view(">u8").ravel().astype(np.uint64)
    return np.where(np.median(np.abs(steps), axis=1) < _STEP, PLAIN, hashes)


def _scattered(keys: np.ndarray) -> np.ndarray:
    """Keys as numbers in which every bit counts (Knuth's multiplicative hashing)."""
    return (keys * np.uint32(2_654_435_761)) >> np.uint32(16)
