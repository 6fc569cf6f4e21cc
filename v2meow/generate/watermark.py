"""A mark in the sound itself that says which bundle made it: 32 bits, for those who hold the secret to find.

Spread spectrum. The secret gives five sequences of signs at RATE, each PERIOD long and repeated. The first stands as it
is; of each other a byte of the payload says by how many STEPs it is turned. Their sum is laid under the music, in each
frame and each part of the spectrum DEPTH_DB below the level that the music has there between its peaks. Who looks for
it flattens the spectrum of what is heard, so that no tone outshouts the mark, and correlates with all turns at once.

**False alarms.** A score is a sum of signs, which the secret alone decides, times numbers that the sound alone decides.
So whatever the sound is, were it all of this world's music, a random secret reaches a score of t by chance with at most
exp(-t² / 2) (Hoeffding's inequality) for each payload and place, and there are STEP · 256⁵ of those. `Mark.chance` is
that bound.

It tells honest listeners where music comes from. It is no lock: who knows of it can remove it, or lay it elsewhere.
"""

import hashlib
import hmac
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

RATE = 16_000  # what is looked at, Hz
PERIOD, STEP = 32_000, 125  # samples at RATE: 2 s, and 256 turns
LOW, HIGH = 150.0, 6500.0  # Hz
DEPTH_DB = -18.0
SURE = 1e-9  # the chance of a false alarm from which on a mark counts as found
_SEQUENCES = 5
_FRAME_S, _HOPS = 0.02, 2
_BESIDE = 6  # bins on both sides that tell the level of a part of the spectrum: ± 300 Hz
_LOOK, _LOOK_HOPS = 512, 4  # the frame of who looks, at RATE
_WINDOW_S = 30  # so much is looked at together: clocks that differ a little drift apart in more
_FLOOR_DB = -70.0  # below the loudest, where there is nothing but rounding
_FEWEST_BYTES = 16


class WatermarkError(ValueError):
    """A secret that cannot be used; the message never holds any of it."""


@dataclass(frozen=True)
class Mark:
    """What was found: the payload, and how likely so clear a mark is where there is none (a bound, at most 1)."""

    payload: int
    chance: float


def read_secret(file: Path) -> bytes:
    """The secret in a file: 16 bytes or more. WatermarkError when it is shorter."""
    secret = file.read_bytes().strip()
    if len(secret) < _FEWEST_BYTES:
        raise WatermarkError(f"{file}: a secret has {_FEWEST_BYTES} bytes or more")
    return secret


def payload_of(bundle: str) -> int:
    """What the mark says of a bundle with this SHA-256: its first 8 digits."""
    return int(bundle[:8], 16)


def marked(waveform: np.ndarray, secret: bytes, bundle: str, rate: int) -> np.ndarray:
    """A whole piece, float32 [T], with the mark of the bundle that made it."""
    marker = Marker(secret, payload_of(bundle), rate)
    return np.concatenate((marker.add(waveform), marker.end()))


class Marker:
    """Marks one piece, part by part. The same samples come out marked the same, whatever parts they come in."""

    def __init__(self, secret: bytes, payload: int, rate: int) -> None:
        self._hop = round(_FRAME_S / _HOPS * rate)
        self._size = _HOPS * self._hop
        self._window = _sine(self._size)
        self._mark = _waveform(secret, payload, rate)
        self._frames = 0
        self._waiting, self._over = np.zeros(self._hop), np.zeros(self._size)

    def add(self, samples: np.ndarray) -> np.ndarray:
        """Marked samples, float32 [m], for the next ones, float32 [n]: at most 20 ms stay behind."""
        self._waiting = np.concatenate((self._waiting, samples.astype(np.float64)))
        done = [np.zeros(0)]
        while len(self._waiting) >= self._size:
            done.append(self._next())
        return np.concatenate(done).astype(np.float32)

    def end(self) -> np.ndarray:
        """What stayed behind."""
        left = len(self._waiting) - (self._hop if self._frames == 0 else 0)
        return self.add(np.zeros(2 * self._size))[:left]

    def _next(self) -> np.ndarray:
        """The next hop of samples. The first one lies before the beginning, so that all samples are in two frames."""
        frame = self._waiting[: self._size]
        place = (self._frames * self._hop + np.arange(self._size)) % len(self._mark)
        spectrum = np.fft.rfft(self._window * self._mark[place])
        level = 10 ** (DEPTH_DB / 20) * _between_peaks(np.abs(np.fft.rfft(self._window * frame)))
        over = self._over + self._window * np.fft.irfft(spectrum * level, self._size)
        done = frame[: self._hop] + over[: self._hop]
        self._over = np.concatenate((over[self._hop :], np.zeros(self._hop)))
        self._waiting = self._waiting[self._hop :]
        self._frames += 1
        return done if self._frames > 1 else done[:0]


def find(waveform: np.ndarray, secret: bytes) -> Mark | None:
    """The clearest mark in float32 [T] at RATE that was made with this secret; None unless its chance is below SURE."""
    count = max(1, round(len(waveform) / (_WINDOW_S * RATE)))
    marks = [_found(part, secret) for part in np.array_split(waveform.astype(np.float64), count)]
    best = min(marks, key=lambda mark: mark.chance)
    best = Mark(best.payload, min(1.0, count * best.chance))
    return best if best.chance < SURE else None


def _found(waveform: np.ndarray, secret: bytes) -> Mark:
    flat = _flattened(waveform)
    turned = np.fft.rfft(flat) * np.conj(np.fft.rfft(_sequences(secret)))
    scores = np.fft.irfft(turned, PERIOD).reshape(_SEQUENCES, PERIOD // STEP, STEP)
    sums = scores.max(1).sum(0) / (math.sqrt(_SEQUENCES) * np.linalg.norm(flat) + 1e-12)
    place = int(sums.argmax())
    turns = scores[:, :, place].argmax(1)
    payload = int.from_bytes(((turns[1:] - turns[0]) % 256).astype(np.uint8).tobytes())
    chance = math.log(STEP) + _SEQUENCES * math.log(256) - float(sums[place]) ** 2 / 2
    return Mark(payload, math.exp(min(0.0, chance)))


def _flattened(waveform: np.ndarray) -> np.ndarray:
    """All periods of a waveform on top of each other [PERIOD], after each bin of each frame was made as loud."""
    hop, window = _LOOK // _LOOK_HOPS, _sine(_LOOK)
    padded = np.pad(waveform, _LOOK)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _LOOK)[::hop]
    spectra = np.fft.rfft(frames * window)
    size, bins = np.abs(spectra), np.fft.rfftfreq(_LOOK, 1 / RATE)
    heard = (size > size.max() * 10 ** (_FLOOR_DB / 20)) & (bins >= LOW) & (bins <= HIGH)
    parts = np.fft.irfft(np.where(heard, spectra / np.maximum(size, 1e-12), 0), _LOOK) * window
    flat = np.zeros(PERIOD)
    for number, part in enumerate(parts):
        np.add.at(flat, (number * hop + np.arange(_LOOK)) % PERIOD, part)
    return flat


def _waveform(secret: bytes, payload: int, rate: int) -> np.ndarray:
    """One period of the mark at `rate`, as loud in its band as a spectrum of ones."""
    turns = [0, *payload.to_bytes(4)]
    signs = sum(np.roll(one, STEP * turn) for one, turn in zip(_sequences(secret), turns, strict=True))
    spectrum, bins = np.fft.rfft(signs), np.fft.rfftfreq(PERIOD, 1 / RATE)
    spectrum[(bins < LOW) | (bins > HIGH)] = 0
    count = round(PERIOD / RATE * rate)
    spectrum = np.pad(spectrum, (0, max(0, count // 2 + 1 - len(spectrum))))[: count // 2 + 1]
    waveform = np.fft.irfft(spectrum, count) * rate / RATE
    frame = round(_FRAME_S / _HOPS * rate) * _HOPS
    return waveform * math.sqrt(RATE / rate / _SEQUENCES / (frame / 2))


def _sequences(secret: bytes) -> np.ndarray:
    """Signs [_SEQUENCES, PERIOD]."""
    drawn = [
        hashlib.shake_256(hmac.digest(secret, b"v2meow watermark %d" % number, "sha256")).digest(PERIOD // 8)
        for number in range(_SEQUENCES)
    ]
    return np.stack([np.unpackbits(np.frombuffer(one, np.uint8)) * 2.0 - 1.0 for one in drawn])


def _between_peaks(size: np.ndarray) -> np.ndarray:
    """The geometric mean of magnitudes [bins] beside each bin: a tone hardly raises it."""
    logs = np.pad(np.log(size + 1e-9), _BESIDE, mode="reflect")
    sums = np.concatenate(([0.0], np.cumsum(logs)))
    width = 2 * _BESIDE + 1
    return np.exp((sums[width:] - sums[:-width]) / width)


def _sine(size: int) -> np.ndarray:
    return np.sin(np.pi * (np.arange(size) + 0.5) / size)
