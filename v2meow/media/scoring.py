"""A scored video that leaves while its music is made. The video is read by a bounded process of its own."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from v2meow.config import MediaConfig
from v2meow.media.bounded import Spare


class Scoring:
    """`video` as fragmented MP4 with the sound that is added as its only soundtrack.

    For one thread at a time, but for `close`. MediaError, from every method, when the file cannot be used.
    """

    def __init__(self, limits: MediaConfig, video: Path, rate: int, comment: str, spare: Spare) -> None:
        """For samples at `rate`; `comment` is what players call so. `spare` gives the process.

        Where it keeps none, this takes as long as a process takes to start; after the end it has one again.
        """
        self._limits, self._video, self._spare = limits, video, spare
        self._child = spare.take(limits)
        try:
            self._child.ask(video, "score", rate=rate, comment=comment)
        except BaseException:
            self._child.stop()
            raise

    def add(self, samples: np.ndarray) -> bytes:
        """What the next samples, float32 [n] in [-1, 1], let out; may be nothing."""
        assert samples.ndim == 1, samples.shape
        return self._bytes(self._child.ask(self._video, "add", samples.astype(np.float32, copy=False))[1])

    def end(self) -> Iterator[bytes]:
        """The rest, with silence to the end of the video."""
        while True:
            message, part = self._child.ask(self._video, "rest")
            if message["ended"]:
                return
            yield self._bytes(part)

    def close(self) -> None:
        """Give it up, or let it go after its end."""
        self._child.kill()
        self._child.stop()
        self._spare.refill(self._limits)

    @staticmethod
    def _bytes(part: np.ndarray | None) -> bytes:
        assert part is not None
        return part.tobytes()
