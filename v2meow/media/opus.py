"""Mono sound as Ogg/Opus, piece by piece: what is played while the rest is still being made.

It encodes our own samples and decodes nothing, so it needs no bounded process.
"""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from v2meow.files import atomic_file
from v2meow.media.write import SOUND_RATE, Outlet, sound_frame

_BITS = 96_000
# Opus needs 20 ms at a time. A page waits for the one after it, which tells whether it is the last: short ones wait
# less, and cost 30 bytes each.
_PAGE_US = 40_000
_OPTIONS = {"page_duration": str(_PAGE_US), "fflags": "+bitexact"}


class OggOpus:
    """One Ogg/Opus file. The same samples give the same bytes, whatever pieces they come in.

    What has come of samples at once lies at most 0.1 s behind them.
    """

    def __init__(self, rate: int, comment: str = "") -> None:
        """For samples at `rate`; `comment` is what players call so."""
        self._rate, self._place, self._written = rate, 0, Outlet()
        self._sink = av.open(self._written, "w", format="ogg", options=_OPTIONS)
        self._stream = self._sink.add_stream("libopus", rate=SOUND_RATE, bit_rate=_BITS, layout="mono")
        if comment:
            self._sink.metadata["comment"] = comment

    def add(self, samples: np.ndarray) -> bytes:
        """What the next samples, float32 [n], let out; may be nothing."""
        assert samples.ndim == 1, samples.shape
        if len(samples):
            self._sink.mux(self._stream.encode(sound_frame(samples, self._rate, self._place)))
            self._place += len(samples)
        return self._written.taken()

    def end(self) -> Iterator[bytes]:
        """The rest, whose last page says that it is the last."""
        self._sink.mux(self._stream.encode(None))
        self._sink.close()
        yield self._written.taken()

    def close(self) -> None:
        """Give it up, or let it go after its end: there is nothing to end, another thread may still be encoding."""


def write_ogg(path: Path, waveform: np.ndarray, rate: int, comment: str = "") -> None:
    """Write mono sound, float32 [T] in [-1, 1], as Ogg/Opus."""
    made = OggOpus(rate, comment)
    with atomic_file(path) as temporary:
        temporary.write_bytes(b"".join([made.add(waveform), *made.end()]))
