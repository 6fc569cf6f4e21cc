"""Reading untrusted files from a process that must survive them: every request runs in a bounded child.

The child is started when it is first needed, serves one request after the other, and is replaced
after it was killed for taking too long, crashed or ran out of memory. This process never decodes.
"""

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from v2meow.config import MediaConfig
from v2meow.files import atomic_file
from v2meow.media.probe import Probe
from v2meow.media.source import MediaError
from v2meow.media.wire import OUT_OF_MEMORY, WireError, receive, send

_START_S = 60.0  # what starting a child may take on a busy machine
_FAREWELL_S = 1.0  # what a child that is told to end may take
# Address space is what is limited: a thread pool or a heap for each core would use it up unasked.
_FRUGAL = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
_ENCODING_PACE = 4.0  # seconds that encoding a second of video may take
_MUX_FILE_BYTES = 4 << 30  # the largest file that putting music under a video may write


class Reader:
    """Probes and decodes files within `limits`. For one thread at a time; use it as a context manager.

    Every method raises MediaError, one line `path: reason`, when a file cannot be used.
    """

    def __init__(self, limits: MediaConfig) -> None:
        self.limits = limits
        self._child: _Child | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            self._child.stop()

    def probe(self, path: Path) -> Probe:
        """What the file holds. A video that cannot show a single picture is refused."""
        return Probe.from_json(self._ask(path, "probe")[0])

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
            child = _Child(replace(self.limits, timeout_s=patience), _MUX_FILE_BYTES)
            try:
                child.ask(video, "mux", samples, rate=rate, out=str(temporary.absolute()), comment=comment)
            finally:
                child.stop()

    def _ask(self, path: Path, operation: str, **arguments: Any) -> Any:
        if self._child is None or self._child.stopped:
            self._child = _Child(self.limits)
        return self._child.ask(path, operation, **arguments)


class _LostError(Exception):
    """The child is gone; the message tells why."""


class _Child:
    """One decoding process. `max_file_bytes` is the size of the largest file it may write."""

    def __init__(self, limits: MediaConfig, max_file_bytes: int = 0) -> None:
        self._limits = limits
        self.stopped = False
        command = [sys.executable, "-P", "-m", "v2meow.media.child", json.dumps(asdict(limits)), str(max_file_bytes)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ | _FRUGAL
        )
        assert self._process.stdin and self._process.stdout
        self._requests, self._replies = self._process.stdin, self._process.stdout
        try:
            self._exchange(_START_S)
        except _LostError as lost:  # not a MediaError: no file is to blame
            raise RuntimeError(f"the decoding process did not start: {lost}") from lost

    def ask(
        self, path: Path, operation: str, array: np.ndarray | None = None, **arguments: Any
    ) -> tuple[dict[str, Any], np.ndarray | None]:
        """Have `operation` done on the file at `path`; the reply. MediaError when the file cannot be used."""
        if not path.is_file():  # a folder, or a pipe that would be waited for
            raise MediaError(path, "no such file")
        try:
            request = {"operation": operation, "path": str(path.absolute()), **arguments}
            message, result = self._exchange(self._limits.timeout_s, request, array)
        except _LostError as lost:
            raise MediaError(path, str(lost)) from lost
        if "errno" in message:
            raise OSError(message["errno"], message["reason"])
        if "reason" in message:
            raise MediaError(path, message["reason"])
        return message, result

    def _exchange(
        self, timeout_s: float, request: dict[str, Any] | None = None, array: np.ndarray | None = None
    ) -> tuple[dict[str, Any], np.ndarray | None]:
        """Send a request, if any, and await a message."""
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._process.kill()  # ends the read or write that this thread waits in

        watchdog = threading.Timer(timeout_s, give_up)
        watchdog.start()
        reply = None
        try:
            if request is not None:
                send(self._requests, request, array)
            reply = receive(self._replies, self._limits.memory_mib << 20)
        except WireError:
            pass
        finally:
            watchdog.cancel()
            watchdog.join()
        if reply is None or late.is_set():
            self.stop()
            raise _LostError(f"took longer than {timeout_s:g} s" if late.is_set() else self._why())
        return reply

    def _why(self) -> str:
        if self._process.returncode == OUT_OF_MEMORY:
            return f"needed more than {self._limits.memory_mib} MiB"
        return f"the decoding process crashed (exit status {self._process.returncode})"

    def stop(self) -> None:
        """End the process; its exit status is known afterwards."""
        self.stopped = True
        for pipe in (self._requests, self._replies):
            with suppress(BrokenPipeError):
                pipe.close()
        try:
            self._process.wait(_FAREWELL_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
