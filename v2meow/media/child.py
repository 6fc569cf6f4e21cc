"""The process that decodes untrusted files: `python -m v2meow.media.child LIMITS MAX_FILE_BYTES`.

It bounds itself, says that it is ready, then answers requests until its standard input ends. It may
be killed at any time. It imports PyAV and numpy, and needs Linux for its limits.
"""

import json
import math
import os
import resource
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
from av import logging

from v2meow.config import MediaConfig
from v2meow.media.fragments import Fragments
from v2meow.media.mux import mux
from v2meow.media.probe import comment, probe
from v2meow.media.read import frames, stretches, waveform
from v2meow.media.source import MediaError
from v2meow.media.wire import OUT_OF_MEMORY, WireError, receive, send

_ORPHAN_S = 5  # the parent kills at `timeout_s`; where the parent is gone, the alarm does


def main() -> None:
    limits = MediaConfig(**json.loads(sys.argv[1]))
    logging.set_level(None)
    bound(limits, max_file_bytes=int(sys.argv[2]))
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    send(replies, {"ready": True})
    desk = Desk(limits)
    while True:
        try:
            request, array = receive(requests, sys.maxsize)
        except WireError:
            return
        signal.alarm(math.ceil(limits.timeout_s) + _ORPHAN_S)
        try:
            desk.answer(replies, request, array)
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        signal.alarm(0)


def bound(limits: MediaConfig, max_file_bytes: int) -> None:
    """Limit what a file may take on top of what this process has already: memory, files written; no core dumps."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = pages * resource.getpagesize() + (limits.memory_mib << 20)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class Desk:
    """Carries out one request after the other."""

    def __init__(self, limits: MediaConfig) -> None:
        self._limits = limits
        self._fragments: Fragments | None = None  # a scored video under way
        self._stretches: dict[int, Iterator[np.ndarray]] = {}  # what is read part by part

    def answer(self, replies: IO[bytes], request: dict[str, Any], array: np.ndarray | None) -> None:
        """Carry out one request and send its result, or the reason why there is none."""
        operation, path = request.pop("operation"), Path(request.pop("path"))
        try:
            message, result = self._carry_out(operation, path, array, request)
        except MediaError as error:
            message, result = {"reason": error.reason}, None
        except MemoryError:
            raise
        except Exception as error:  # a hostile file may lead a decoder to any of them
            message, result = {"reason": f"could not be read: {type(error).__name__}: {error}"}, None
            if operation == "mux" and isinstance(error, OSError):  # the disk's fault, and not the file's
                message = {"errno": error.errno, "reason": error.strerror}
        send(replies, message, result)

    def _carry_out(
        self, operation: str, path: Path, array: np.ndarray | None, arguments: dict[str, Any]
    ) -> tuple[dict[str, Any], np.ndarray | None]:
        limits = self._limits
        if operation == "probe":
            return asdict(probe(path, limits)), None
        if operation == "comment":
            return {"comment": comment(path, limits)}, None
        if operation == "frames":
            return {}, frames(path, limits, **arguments)
        if operation == "stretches":
            number = arguments.pop("number")
            self._stretches[number] = stretches(path, limits, **arguments)
            return {}, None
        if operation == "next":
            return {}, next(self._stretches[arguments["number"]])
        if operation == "leave":
            del self._stretches[arguments["number"]]
            return {}, None
        if operation == "waveform":
            return {}, waveform(path, limits, **arguments)
        if operation == "mux":
            assert array is not None
            mux(path, limits, array, arguments["rate"], Path(arguments["out"]), arguments["comment"])
            return {}, None
        return self._score(operation, path, array, arguments)

    def _score(
        self, operation: str, path: Path, array: np.ndarray | None, arguments: dict[str, Any]
    ) -> tuple[dict[str, Any], np.ndarray | None]:
        if operation == "score":
            self._fragments = Fragments(path, self._limits, **arguments)
            return {}, None
        assert self._fragments is not None and operation in ("add", "rest"), operation
        part = self._fragments.rest() if array is None else self._fragments.add(array)
        return {"ended": part is None}, np.array(bytearray(part or b""), np.uint8)


if __name__ == "__main__":
    main()
