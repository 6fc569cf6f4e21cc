"""Videos whose music is one tone of a given loudness: a catalogue, and others that are unlike it, in moments."""

from pathlib import Path

import numpy as np

from v2meow.media import write_video

RATE = 16_000


def make(folder: Path, count: int, *, level: float, first: int = 0, seconds: float = 2.1) -> list[Path]:
    """Write `count` videos, numbered from `first`, whose tones are about `level` (amplitude, 0 … 1) loud."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_tone(folder / f"tone-{number:03d}.mp4", number, level, seconds) for number in range(first, first + count)]


def _tone(path: Path, number: int, level: float, seconds: float) -> Path:
    random = np.random.default_rng(number)
    times = np.arange(round(seconds * RATE)) / RATE
    sound = level * random.uniform(0.8, 1.2) * np.sin(2 * np.pi * random.uniform(200, 800) * times)
    shade = int(random.integers(1, 250))
    pictures = (np.full((64, 64, 3), (shade + 3 * picture) % 256, np.uint8) for picture in range(round(10 * seconds)))
    write_video(path, pictures, 10, sound.astype(np.float32), RATE)
    return path
