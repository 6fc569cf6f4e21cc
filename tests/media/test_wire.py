"""The pipe to the decoding child: what comes out of it is bounded and is never code."""

import io

import numpy as np
import pytest

from v2meow.media.wire import WireError, receive, send


def test_messages_and_arrays_come_back():
    pipe, array = io.BytesIO(), np.arange(12, dtype=np.float32).reshape(3, 4)
    send(pipe, {"path": "a\udcff\n.mp4"}, array)
    send(pipe, {}, np.empty((0,), np.float32))
    send(pipe, {"width": 64})
    pipe.seek(0)
    message, back = receive(pipe, 1 << 20)
    assert message == {"path": "a\udcff\n.mp4"} and back is not None
    np.testing.assert_array_equal(back, array)
    _, empty = receive(pipe, 1 << 20)
    assert empty is not None and empty.shape == (0,)
    assert receive(pipe, 1 << 20) == ({"width": 64}, None)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"FFmpeg says something\n",
        b'{"message": {}}\n',
        b"[]\n",
        b'{"message": {}, "array": {"dtype": "object", "shape": [1]}}\n',
        b'{"message": {}, "array": {"dtype": "uint8", "shape": [-1]}}\n',
        b'{"message": {}, "array": {"dtype": "uint8", "shape": [99999, 99999, 99999]}}\n',
        b'{"message": {}, "array": {"dtype": "uint8", "shape": [4]}}\n123',
        b'{"message": {}, "array": {"dtype": "uint8", "shape": [Infinity]}}\n',
        b"[" * 60_000 + b"\n",
        b"x" * 100_000,
    ],
    ids=["end", "chatter", "half", "list", "objects", "negative", "huge", "short", "infinite", "nested", "endless"],
)
def test_what_is_no_message_is_refused(sent: bytes):
    """A decoder that a file has taken over may send anything: no objects, no terabytes, no endless line."""
    with pytest.raises(WireError):
        receive(io.BytesIO(sent), 1 << 20)
