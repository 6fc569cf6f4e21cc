"""Reading untrusted files from a process that must survive them: every request runs in a bounded child.

The child is started when it is first needed, or before, serves one request after the other, and is replaced
after it was killed for taking too long, crashed or ran out of memory. This process never decodes.
"""

from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from v2meow.config import MediaConfig
from v2meow.files import atomic_file
from v2meow.media.bounded import Child
from v2meow.media.probe import Probe
from v2meow.media.source import MediaError

_ENCODING_PACE = 4.0  # seconds that encoding a second of video may take
_MUX_FILE_BYTES = 4 << 30  # the largest file that putting music under a video may write


class Reader:
    """Probes and decodes files within `limits`. For one thread at a time; use it as a context manager.

    Every method raises MediaError, one line `path: reason`, when a file cannot be used.
    """

    def __init__(self, limits: MediaConfig) -> None:
        self.limits = limits
        self._child: Child | None = None
        self._begun = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            self._child.stop()

    def begin(self) -> None:
        """Start the child, without waiting for it: who knows that files will come need not wait for it then."""
        self._child_at_work()

    def probe(self, path: Path) -> Probe:
        """What the file holds. A video that cannot show a single picture is refused."""
        return Probe.from_json(self._ask(path, "probe")[0])

    def comment(self, path: Path) -> str:
        """What the file says of itself where players look for a comment; "" where it says nothing."""
        return self._ask(path, "comment")[0]["comment"]

    def frames(
        self,
        path: Path,
        rate: float,
        size: int,
        start: float = 0.0,
        seconds: float | None = None,
        *,
        whole: bool = False,
    ) -> np.ndarray:
        """Pictures on screen at start + i / rate: uint8 [V, H, W, 3], RGB, upright.

        They are squeezed to a square of `size` pixels; `whole` ones keep their aspect, and are made smaller
        until their shorter side has at most `size` pixels.

        V = round(seconds * rate), at least 1; `seconds` None reads to the end of the video. Before the
        first picture the first is shown, after the last the last, so a single picture is a video too.
        All pictures are held in memory: read a long video in parts.
        """
        return self._ask(path, "frames", rate=rate, size=size, start=start, seconds=seconds, whole=whole)[1]

    def stretches(
        self, path: Path, rate: float, size: int, parts: Sequence[tuple[float, float]], *, whole: bool = False
    ) -> Generator[np.ndarray]:
        """The `frames` of each (start, seconds) in `parts`, which begin in order and may overlap, one after the other.

        Each picture is decoded once. Several may be read by turns; close those that are not read to their end.
        """
        self._begun += 1
        number, child = self._begun, self._child_at_work()
        child.ask(path, "stretches", number=number, rate=rate, size=size, parts=parts, whole=whole)
        try:
            for _ in parts:
                if child.stopped:
                    raise MediaError(path, "its decoding process was lost")
                pictures = child.ask(path, "next", number=number)[1]
                assert pictures is not None
                yield pictures
        finally:
            if not child.stopped:
                child.ask(path, "leave", number=number)

    def waveform(self, path: Path, rate: int, start: float = 0.0, seconds: float | None = None) -> np.ndarray:
        """The soundtrack mixed to mono: float32 [T] in [-1, 1], T = round(seconds * rate).

        `start` counts from the first picture; `seconds` None reads to the end of the video. Silence
        stands where the soundtrack has none. The track is the one flagged as default, else FFmpeg's best.
        """
        return self._ask(path, "waveform", rate=rate, start=start, seconds=seconds)[1]

    def mux(self, video: Path, waveform: np.ndarray, rate: int, out: Path, comment: str = "") -> None:
        """Write `video` with `waveform`, float32 [T] in [-1, 1], as its only soundtrack, to the MP4 file `out`.

        `comment` goes into the file, where players look for one.

        The picture is copied where MP4 can hold its codec, else encoded anew as H.264. The sound starts
        with the picture and is cut, or filled with silence, to its length.

        A child of its own does it: the other may write no file at all, this one a bounded one. On top
        of `timeout_s` it has the time that encoding the whole video may take.
        """
        assert waveform.ndim == 1, waveform.shape
        samples = waveform.astype(np.float32, copy=False)
        patience = self.limits.timeout_s + _ENCODING_PACE * self.probe(video).seconds
        with atomic_file(out) as temporary:
            child = Child(replace(self.limits, timeout_s=patience), _MUX_FILE_BYTES)
            try:
                child.ask(video, "mux", samples, rate=rate, out=str(temporary.absolute()), comment=comment)
            finally:
                child.stop()

    def _ask(self, path: Path, operation: str, **arguments: Any) -> Any:
        return self._child_at_work().ask(path, operation, **arguments)

    def _child_at_work(self) -> Child:
        if self._child is None or self._child.stopped:
            self._child = Child(self.limits)
        return self._child
