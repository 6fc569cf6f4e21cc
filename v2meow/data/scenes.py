"""Where a video is cut, from its pictures alone. Files are read by `media`'s bounded process, as everywhere."""

from pathlib import Path

import numpy as np

from v2meow.media import Reader

_RATE = 10.0  # pictures a second: cuts are found to a tenth of a second
_SIDE = 64  # pixels
_STRETCH_S = 30.0  # read at once: bounds memory for videos of hours


def find_cuts(reader: Reader, file: Path, seconds: float, threshold: float) -> list[float]:
    """Times in seconds of pictures that differ from the one before by `threshold` or more. Raises MediaError.

    The difference is that of ContentDetector in PySceneDetect: the mean over pixels, and over hue (0 … 180),
    saturation and value (0 … 255), of how much each changes. Pictures are taken ten times a second.
    """
    cuts, last = [], None
    for begin in np.arange(0.0, seconds, _STRETCH_S).tolist():
        frames = reader.frames(file, _RATE, _SIDE, begin, min(_STRETCH_S, seconds - begin))
        colours = hue_saturation_value(frames)
        before = colours[:1] if last is None else last
        differences = np.abs(np.diff(np.concatenate([before, colours]), axis=0)).mean(axis=(1, 2, 3))
        cuts += [round(begin + index / _RATE, 3) for index in np.flatnonzero(differences >= threshold).tolist()]
        last = colours[-1:]
    return cuts


def hue_saturation_value(frames: np.ndarray) -> np.ndarray:
    """uint8 RGB [V, H, W, 3] as float32 of hue in half degrees (0 … 180), saturation and value (0 … 255)."""
    rgb = frames.astype(np.float32)
    value, lowest = rgb.max(axis=-1), rgb.min(axis=-1)
    spread = np.maximum(value - lowest, 1e-6)
    red, green, blue = np.moveaxis(rgb, -1, 0)
    hue = np.select(
        [value == lowest, value == red, value == green],
        [np.float32(0), 30 * (green - blue) / spread, 60 + 30 * (blue - red) / spread],
        120 + 30 * (red - green) / spread,
    )
    saturation = np.where(value > 0, 255 * (value - lowest) / np.maximum(value, 1e-6), 0)
    return np.stack([hue % 180, saturation, value], axis=-1).astype(np.float32)
