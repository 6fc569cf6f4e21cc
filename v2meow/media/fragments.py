"""Music under a video while the music is still made: fragmented MP4, which plays as it arrives.

Runs in a bounded child process, for it reads a video that came from outside. Pictures leave as far as there is sound
for them, and both in short fragments: a player never waits for the one with the other in its hands.
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.packet import Packet

from v2meow.config import MediaConfig
from v2meow.media.mux import add_pictures
from v2meow.media.probe import probe
from v2meow.media.source import open_source
from v2meow.media.write import Outlet, add_aac, decoding_time, sound_frame

_OPTIONS = {
    # The head waits for the first fragment, so that it can tell what each stream begins with: sound begins where the
    # picture does, to the sample.
    "movflags": "delay_moov+default_base_moof",
    "frag_duration": "200000",  # microseconds
    "max_interleave_delta": "1",  # packets come in order already: none shall wait for one of the other stream
    "flush_packets": "1",
    "fflags": "+bitexact",
}


class Fragments:
    """`video` with sound as its only soundtrack. `add` the sound, then ask for the `rest` until there is none."""

    def __init__(self, video: Path, limits: MediaConfig, rate: int, comment: str) -> None:
        about = probe(video, limits)
        self._rate, self._place, self._samples = rate, 0, round(about.seconds * rate)
        self._source = open_source(video, limits)
        self._written, self._ended = Outlet(), False
        self._sink = av.open(self._written, "w", format="mp4", options=_OPTIONS)
        self._pictures = add_pictures(self._source.__enter__(), self._sink, about)
        self._sound = add_aac(self._sink)
        if comment:
            self._sink.metadata["comment"] = comment
        self._next, self._seen = next(self._pictures, None), Fraction(-1)

    def add(self, samples: np.ndarray) -> bytes:
        """What the next samples, float32 [n], let out. Those after the end of the video are dropped."""
        samples = samples[: self._samples - self._place]
        if len(samples):
            self._mux(self._sound.encode(sound_frame(samples, self._rate, self._place)))
            self._place += len(samples)
        return self._written.taken()

    def rest(self) -> bytes | None:
        """The next of what comes after the last sample; None after the end.

        A second of silence at a time up to the end of the video, whose pictures may be many.
        """
        if self._ended:
            return None
        if self._place < self._samples:
            return self.add(np.zeros(self._rate, np.float32))
        self._mux(self._sound.encode(None))
        while self._next is not None:
            self._show()
        self._sink.close()
        self._source.__exit__(None, None, None)
        self._ended = True
        return self._written.taken()

    def _mux(self, sound: list[Packet]) -> None:
        """Write packets of sound, and before each the pictures to its time and one more: then it can leave at once."""
        for packet in sound:
            while self._next is not None and self._seen <= decoding_time(packet):
                self._show()
            self._sink.mux(packet)

    def _show(self) -> None:
        assert self._next is not None
        self._seen = decoding_time(self._next)
        self._sink.mux(self._next)
        self._next = next(self._pictures, None)
