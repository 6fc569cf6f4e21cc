"""Pictures and sounds of which studies are made in tests."""

from collections.abc import Iterator

import numpy as np

RATE = 16_000
SECONDS = 1.6
VIDEOS = ("beach", "night")


def pictures(level: int) -> Iterator[np.ndarray]:
    """A disc that moves over a ground of that level."""
    y, x = np.mgrid[:96, :128]
    for number in range(round(10 * SECONDS)):
        picture = np.full((96, 128, 3), level, np.uint8)
        picture[(x - 10 - 7 * number) ** 2 + (y - 48) ** 2 < 300] = (240, 200, 90)
        yield picture


def tone(frequency: float, level: float, seconds: float = SECONDS) -> np.ndarray:
    return (level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)
