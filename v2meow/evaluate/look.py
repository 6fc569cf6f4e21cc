"""What can be seen to happen in a clip: how much its picture changes from one moment to the next.

Read from the videos themselves, not from the features that a model is given: a model that is blind to movement must
not be judged by its own eyes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from v2meow.config import Recipe
from v2meow.data.manifest import Clip
from v2meow.data.reading import map_readers
from v2meow.evaluate import beats
from v2meow.media import MediaError, Reader
from v2meow.progress import progress

RATE = 25.0  # Hz, the most pictures a second that are looked at
STILL = 0.02  # change below which nothing happens: a tenth of a grey level, as noise and compression have it
_STEADY = 0.0004  # how much the change of a clip varies when nothing but noise is in it
_SIZE = 64  # pixels


@dataclass(frozen=True, kw_only=True)
class Seen:
    """`change` [round(seconds RATE)] of one clip at RATE; `events`: times in seconds of its cuts and movements."""

    change: np.ndarray
    events: np.ndarray

    @property
    def is_still(self) -> bool:
        """Whether there is nothing that music could follow."""
        return len(self.events) == 0 or float(self.change.std()) < _STEADY


def look(recipe: Recipe, workspace: Path, clips: list[Clip]) -> list[Seen | None]:
    """What is seen in each clip; None for a clip whose video cannot be read (any more)."""

    def read(reader: Reader, clip: Clip) -> Seen | None:
        rate = min(RATE, clip.fps)  # more pictures than the video has would only repeat some
        try:
            frames = reader.frames(workspace / clip.path, rate, _SIZE, clip.start, clip.seconds)
        except MediaError:
            return None
        return seen(frames, rate, clip.seconds)

    found = []
    with progress("look at the held-out videos", len(clips)) as bar:
        for one in map_readers(recipe.media, read, clips):
            found.append(one)
            bar.advance()
    return found


def seen(frames: np.ndarray, rate: float, seconds: float) -> Seen:
    """What is seen in RGB frames uint8 [V, S, S, 3] at `rate` Hz of a clip of `seconds`."""
    change = changes(frames)
    grid = np.arange(round(seconds * RATE)) / RATE
    on_grid = np.interp(grid, np.arange(len(change)) / rate, change)
    return Seen(change=on_grid, events=beats.peaks(change, rate, floor=STILL))


def changes(frames: np.ndarray) -> np.ndarray:
    """[V]: root of the mean absolute change in grey of frame i against the one before, 0 … 1; the first takes the
    second's. The root keeps a cut from hiding all movement beside it."""
    grey = frames.mean(3, dtype=np.float32) / 255
    change = np.abs(np.diff(grey, axis=0)).mean((1, 2))
    change = np.concatenate((change[:1], change)) if len(change) else np.zeros(1)
    return np.sqrt(change)
