"""A bounded process that decodes, as those who ask it see it: one request after the other, each with a time limit.

What it was asked is lost with it when it takes too long, crashes or runs out of memory; who needs another starts one.
"""

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from v2meow.config import MediaConfig
from v2meow.media.source import MediaError
from v2meow.media.wire import OUT_OF_MEMORY, WireError, receive, send

_START_S = 60.0  # what starting a child may take on a busy machine
_FAREWELL_S = 1.0  # what a child that is told to end may take
# Address space is what is limited: a thread pool or a heap for each core would use it up unasked.
_FRUGAL = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


class LostError(Exception):
    """The child is gone; the message tells why."""


class Child:
    """One decoding process, which starts while others work.

    `max_file_bytes` is the size of the largest file it may write.
    """

    def __init__(self, limits: MediaConfig, max_file_bytes: int = 0) -> None:
        self._limits = limits
        self._started = self.stopped = False
        command = [sys.executable, "-P", "-m", "v2meow.media.child", json.dumps(asdict(limits)), str(max_file_bytes)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ | _FRUGAL
        )
        assert self._process.stdin and self._process.stdout
        self._requests, self._replies = self._process.stdin, self._process.stdout

    def await_start(self) -> None:
        """Wait until it can be asked. RuntimeError when it does not start: no file is to blame."""
        if self._started:
            return
        try:
            self._exchange(_START_S)
        except LostError as lost:
            raise RuntimeError(f"the decoding process did not start: {lost}") from lost
        self._started = True

    def ask(
        self, path: Path, operation: str, array: np.ndarray | None = None, **arguments: Any
    ) -> tuple[dict[str, Any], np.ndarray | None]:
        """Have `operation` done on the file at `path`; the reply. MediaError when the file cannot be used."""
        if not path.is_file():  # a folder, or a pipe that would be waited for
            raise MediaError(path, "no such file")
        self.await_start()
        try:
            request = {"operation": operation, "path": str(path.absolute()), **arguments}
            message, result = self._exchange(self._limits.timeout_s, request, array)
        except LostError as lost:
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
        except (WireError, ValueError):  # the latter from a pipe that another thread has closed
            pass
        finally:
            watchdog.cancel()
            watchdog.join()
        if reply is None or late.is_set():
            self.stop()
            raise LostError(f"took longer than {timeout_s:g} s" if late.is_set() else self._why())
        return reply

    def _why(self) -> str:
        if self._process.returncode == OUT_OF_MEMORY:
            return f"needed more than {self._limits.memory_mib} MiB"
        return f"the decoding process crashed (exit status {self._process.returncode})"

    @property
    def idle(self) -> bool:
        """Whether it lives to be asked."""
        return not self.stopped and self._process.poll() is None

    def kill(self) -> None:
        """End what it does at once, from whatever thread; who waits for an answer is told that there is none."""
        self._process.kill()

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


class Spare:
    """One process that is kept ready, for those who cannot wait for one to start; for any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: tuple[MediaConfig, Child] | None = None
        self._refilling = self._closed = False

    def take(self, limits: MediaConfig) -> Child:
        """The one that is kept, if it is within these limits; else a new one, which takes its time to start."""
        with self._lock:
            kept, self._kept = self._kept, None
        if kept is not None:
            if kept[0] == limits and kept[1].idle:
                return kept[1]
            kept[1].stop()
        return Child(limits)

    def refill(self, limits: MediaConfig) -> None:
        """Keep one again. Returns when it is ready: best asked for when nobody waits for what the machine does."""
        with self._lock:
            if self._kept is not None or self._refilling or self._closed:
                return
            self._refilling = True
        try:
            fresh = Child(limits)
            fresh.await_start()
        finally:
            self._refilling = False
        with self._lock:
            if not self._closed:
                self._kept = limits, fresh
                return
        fresh.stop()

    def close(self) -> None:
        """Keep none any more."""
        with self._lock:
            kept, self._kept, self._closed = self._kept, None, True
        if kept is not None:
            kept[1].stop()
