"""Clients of the KServe server who send too much or too slowly: they are refused in time, and others are served."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import httpx
import pytest
from kserve_process import KServeProcess

from serving.patience import Patience

pytestmark = pytest.mark.slow  # heads have ten seconds
UPLOAD_S = 2.0
_HEAD = b"POST /v2/models/v2meow-codec/infer HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def server(tiny_model, tmp_path_factory) -> Iterator[KServeProcess]:
    options = ("--part", "codec", "--upload-mib", "1", "--upload-seconds", str(UPLOAD_S))
    options += ("--pieces", "1", "--waiting", "2")
    server = KServeProcess(tmp_path_factory.mktemp("kserve"), tiny_model, *options)
    yield server
    server.kill()


@pytest.fixture
def connect(server) -> Iterator[Callable[[], socket.socket]]:
    """Makes connections to the server."""
    with ExitStack() as stack:
        address = ("127.0.0.1", server.http_port)
        yield lambda: stack.enter_context(socket.create_connection(address, timeout=5.0))


def _answer(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection, be it because bytes came that nobody reads any more."""
    answer = b""
    with suppress(ConnectionResetError):
        while part := connection.recv(4096):
            answer += part
    return answer


def _dribbled(connection: socket.socket, start: bytes, seconds: float) -> tuple[bytes, float, float]:
    """What is answered to who sends `start` and then a byte a second, and after how long it came and the end came."""
    connection.sendall(start)
    connection.settimeout(1.0)
    began, answer, came = time.monotonic(), b"", 0.0
    while (took := time.monotonic() - began) < seconds:
        try:
            connection.sendall(b"x")
            part = connection.recv(4096)
        except TimeoutError:
            continue
        except OSError:  # closed while a byte was on its way
            break
        if not part:
            break
        came = came or time.monotonic() - began
        answer += part
        time.sleep(1.0)
    else:
        pytest.fail(f"the connection is still open after {took:.1f} s; {answer!r} came")
    return answer, came, took


@pytest.mark.parametrize("lines", [b"X: " + b"a" * (1 << 20), b"X: a\r\n" * (1 << 18)], ids=["one line", "many"])
def test_a_head_of_a_megabyte_is_refused(server, connect, lines):
    """The parser that uvicorn prefers would take it, and any larger one, into memory."""
    connection = connect()
    with suppress(OSError):  # refused before all of it was sent
        connection.sendall(_HEAD + lines + b"\r\n\r\n")
    assert _answer(connection).startswith(b"HTTP/1.1 431 ")
    assert server.ready()


def test_a_head_that_dribbles_in_is_not_waited_for(server, connect):
    """A byte a second, for ever, by one of a hundred; the others say nothing more. Meanwhile others are served."""
    waiting = [connect() for _ in range(99)]
    for connection in waiting:
        connection.sendall(b"GET /v2")
    answer, _, took = _dribbled(connect(), _HEAD + b"X: ", Patience.head_s + 5.0)
    assert answer.startswith(b"HTTP/1.1 408 ") and took > Patience.head_s - 2.0
    assert server.ready()
    for connection in waiting:
        assert _answer(connection).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("framing", [b"Content-Length: 1000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n400\r\n"])
def test_a_body_that_dribbles_in_is_refused_and_its_connection_closed(server, connect, framing):
    """Who goes on dribbling after the answer is cut off as a head that dribbles is."""
    answer, came, _ = _dribbled(connect(), _HEAD + framing, UPLOAD_S + Patience.head_s + 5.0)
    assert answer.startswith(b"HTTP/1.1 408 ") and b"the upload took too long" in answer
    assert UPLOAD_S - 1.0 < came < UPLOAD_S + 3.0
    assert server.ready()


def test_a_body_without_a_length_is_bounded(server):
    """Its chunks are counted as they come."""
    place = f"{server.url}/v2/models/v2meow-codec/infer"
    answer = httpx.post(place, content=(bytes(1 << 16) for _ in range(17)))
    assert (answer.status_code, answer.json()["error"]) == (413, "the upload is larger than 1 MiB")
    assert server.ready()


def test_bodies_that_come_in_at_once_are_counted(server, connect):
    """Each is held in memory: what is beyond all that the server may have to do is sent away before it is read."""
    coming = [connect() for _ in range(3)]
    for connection in coming:
        connection.sendall(_HEAD + b"Content-Length: 1000000\r\n\r\nx")
    time.sleep(0.5)
    answer = httpx.post(f"{server.url}/v2/models/v2meow-codec/infer", content=b"x")
    assert answer.status_code == 429 and float(answer.headers["Retry-After"]) >= 1
    for connection in coming:
        assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")
    assert httpx.post(f"{server.url}/v2/models/v2meow-codec/infer", content=b"x").status_code == 400
