"""Messages between a process and its decoding child: one line of JSON, then the bytes of one array.

No pickle: what comes back from a process that decodes hostile files is data, never code.
"""

import json
from typing import IO, Any

import numpy as np

OUT_OF_MEMORY = 3  # exit status of a child that ran out of memory, and could not be trusted to say so
_LONGEST_LINE = 1 << 16
_TYPES = ("uint8", "float32")


class WireError(Exception):
    """The other side is gone, or does not speak this protocol."""


def send(stream: IO[bytes], message: dict[str, Any], array: np.ndarray | None = None) -> None:
    """Write one message. WireError when the other side is gone."""
    shape = None if array is None else {"dtype": str(array.dtype), "shape": array.shape}
    try:
        stream.write(json.dumps({"message": message, "array": shape}).encode() + b"\n")
        if array is not None:
            stream.write(np.ascontiguousarray(array).data)
        stream.flush()
    except OSError as error:
        raise WireError(str(error)) from error


def receive(stream: IO[bytes], max_bytes: int) -> tuple[dict[str, Any], np.ndarray | None]:
    """Read one message whose array has at most `max_bytes`. WireError when there is none."""
    line = stream.readline(_LONGEST_LINE)
    try:
        envelope = json.loads(line)
        array = _empty(envelope["array"], max_bytes) if envelope["array"] else None
        message = envelope["message"]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise WireError(f"not a message: {line[:80]!r}") from error
    if array is not None:
        _fill(stream, array)
    return message, array


def _empty(described: dict[str, Any], max_bytes: int) -> np.ndarray:
    dtype, shape = described["dtype"], [int(length) for length in described["shape"]]
    if (
        dtype not in _TYPES
        or min(shape, default=0) < 0
        or np.prod(shape, dtype=object) * np.dtype(dtype).itemsize > max_bytes
    ):
        raise ValueError(described)
    return np.empty(shape, dtype)


def _fill(stream: IO[bytes], array: np.ndarray) -> None:
    """Read exactly the bytes of `array` into it."""
    view = memoryview(array.reshape(-1).view(np.uint8).data)
    while len(view) > 0:
        count = stream.readinto(view)  # pyright: ignore[reportAttributeAccessIssue]: pipes have it, IO does not say so
        if not count:
            raise WireError("the other side is gone")
        view = view[count:]
