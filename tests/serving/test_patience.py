"""Heads that dribble in or are too long, and answers that nobody reads: their connections are closed in time, whatever
server has them, and others are served."""

import asyncio
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
import uvicorn.config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving import patience
from serving.patience import Patience, PatientProtocol
from serving.problems import Problem
from serving.run import PROXY_CALLBACK

HEAD_S = UNREAD_S = 0.5
LARGE = 16 << 20  # bytes: more than systems take on themselves
_GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
_PROTOCOLS = {"httptools": HttpToolsProtocol, "h11": H11Protocol}


async def _app(scope: dict[str, Any], receive: Callable, send: Callable) -> None:
    """Two bytes; at /slow the second comes after longer than a head may take; at /large many, at once or, at
    /large/parts, in parts. Bodies are read to their end."""
    while scope["method"] == "POST" and (await receive()).get("more_body"):
        pass
    if scope["path"].startswith("/large"):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % LARGE)]})
        parts = 256 if scope["path"].endswith("/parts") else 1
        for part in range(parts):
            await send({"type": "http.response.body", "body": bytes(LARGE // parts), "more_body": part < parts - 1})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"a", "more_body": True})
    await asyncio.sleep(3 * HEAD_S if scope["path"] == "/slow" else 0)
    await send({"type": "http.response.body", "body": b"b"})


@contextmanager
def _served(protocol: type[asyncio.Protocol], head_s: float) -> Iterator[int]:
    """The port of a server whose heads may take that long."""
    protocol = type("Hurried", (Patience, protocol), {"head_s": head_s, "unread_s": UNREAD_S})
    server = uvicorn.Server(uvicorn.Config(_app, port=0, http=protocol, lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(params=_PROTOCOLS.values(), ids=list(_PROTOCOLS))
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """A server whose heads may take HEAD_S."""
    with _served(request.param, HEAD_S) as port:
        yield port


def _connected(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.settimeout(5.0)
    return connection


def _dribbled(connection: socket.socket, head: bytes, seconds: float) -> tuple[bytes, float]:
    """What is answered to a head of which a byte comes now and then, and when the connection ends."""
    began, answer = time.monotonic(), b""
    connection.settimeout(0.1)
    for byte in head:
        try:
            connection.sendall(bytes([byte]))
            while part := connection.recv(4096):
                answer += part
            break
        except TimeoutError:
            continue
        except OSError:
            break
        finally:
            assert time.monotonic() - began < seconds, "the connection is still open"
    return answer, time.monotonic() - began


def test_a_head_that_dribbles_in_is_not_waited_for(port: int):
    """A byte in a tenth of a second, for ever: uvicorn's own timer begins anew with each."""
    with _connected(port) as connection:
        answer, took = _dribbled(connection, _GET[:-2] + b"x" * 1000, 5.0)
    assert 0.9 * HEAD_S < took < HEAD_S + 2.0
    assert answer.startswith(b"HTTP/1.1 408 ") and b"head-too-slow" in answer


def test_a_connection_that_says_nothing_is_closed(port: int):
    with _connected(port) as connection:
        began = time.monotonic()
        while connection.recv(4096):
            pass
        assert 0.9 * HEAD_S < time.monotonic() - began < HEAD_S + 2.0


def test_a_later_head_is_bounded_too(port: int):
    """A client that was served once has no right to dribble afterwards."""
    with _connected(port) as connection:
        connection.sendall(_GET)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        time.sleep(2 * HEAD_S)  # idle, which is none of our business
        answer, took = _dribbled(connection, _GET[:-2] + b"x" * 1000, 5.0)
    assert 0.9 * HEAD_S < took < HEAD_S + 2.0 and b" 408 " in answer


def test_bodies_and_answers_may_take_longer(port: int):
    """Music takes longer than a head; so do uploads, which have a bound of their own."""
    place = f"http://127.0.0.1:{port}"
    assert httpx.get(f"{place}/slow").text == "ab"

    def slow_body() -> Iterator[bytes]:
        for _ in range(6):
            time.sleep(HEAD_S / 2)
            yield b"x"

    assert httpx.post(place, content=slow_body()).text == "ab"
    with httpx.Client() as client:
        for _ in range(3):
            assert client.get(place).text == "ab"
            time.sleep(2 * HEAD_S)


def test_requests_sent_at_once_are_all_answered(port: int):
    """Pipelined: the second head is there before the first answer has ended."""
    with _connected(port) as connection:
        connection.sendall(_GET.replace(b"/ ", b"/slow ", 1) + _GET)
        content = b""
        while content.count(b"HTTP/1.1 200") < 2 or not content.endswith(b"ab"):
            part = connection.recv(4096)
            assert part, f"it was closed after {content!r}"
            content += part


def _dribblers(stack: ExitStack, port: int) -> list[socket.socket]:
    connections = [stack.enter_context(_connected(port)) for _ in range(200)]
    for connection in connections:
        connection.sendall(b"GET / HT")
    return connections


@pytest.mark.parametrize("protocol", _PROTOCOLS.values(), ids=list(_PROTOCOLS))
def test_others_are_served_while_hundreds_dribble(protocol: type[asyncio.Protocol]):
    with _served(protocol, 60.0) as port, ExitStack() as stack:
        slow = _dribblers(stack, port)
        assert httpx.get(f"http://127.0.0.1:{port}").text == "ab"
        slow[0].setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody was closed for it
            slow[0].recv(1)


def test_hundreds_that_dribble_are_all_closed(port: int):
    with ExitStack() as stack:
        began, slow = time.monotonic(), _dribblers(stack, port)
        answers = [b"".join(iter(partial(connection.recv, 4096), b"")) for connection in slow]
    assert all(answer.startswith(b"HTTP/1.1 408 ") for answer in answers)
    assert time.monotonic() - began > 0.9 * HEAD_S


@pytest.mark.parametrize("lines", [b"X: " + b"a" * (1 << 20), b"X: a\r\n" * (1 << 18)], ids=["one line", "many"])
@pytest.mark.parametrize("earlier", [b"", _GET], ids=["the first", "a later one"])
def test_a_head_of_a_megabyte_is_refused(port: int, earlier: bytes, lines: bytes):
    """One of uvicorn's two parsers would take any length into memory."""
    with _connected(port) as connection:
        if earlier:
            connection.sendall(earlier)
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        with suppress(OSError):  # refused before all of it was sent
            connection.sendall(_GET[:-2] + lines + b"\r\n\r\n")
        answer = b""
        with suppress(ConnectionResetError):
            while part := connection.recv(4096):
                answer += part
    assert re.search(rb"HTTP/1.1 (431|400) ", answer), answer  # 400 is h11's own
    assert httpx.get(f"http://127.0.0.1:{port}").text == "ab"


def _asked_for_much(port: int, path: bytes) -> socket.socket:
    """A connection whose client takes little at a time, and has asked for LARGE bytes."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
    connection.connect(("127.0.0.1", port))
    connection.settimeout(5.0)
    connection.sendall(_GET.replace(b"/ ", path + b" ", 1))
    return connection


@pytest.mark.parametrize("path", [b"/large", b"/large/parts"])
def test_an_answer_that_nobody_reads_is_dropped(port: int, path: bytes):
    """Be it in the memory of the server already, or still to be made: for ever, music would stand there."""
    with _asked_for_much(port, path) as connection:
        time.sleep(4 * UNREAD_S)
        come = 0
        with suppress(ConnectionResetError):
            while part := connection.recv(1 << 16):  # what the system had taken on itself
                come += len(part)
    assert come < LARGE
    assert httpx.get(f"http://127.0.0.1:{port}").text == "ab"


@pytest.mark.parametrize("path", [b"/large", b"/large/parts"])
def test_an_answer_that_is_read_slowly_comes_whole(port: int, path: bytes):
    """Though what is read in the time is far less than what waits."""
    with _asked_for_much(port, path) as connection:
        come, began = 0, time.monotonic()
        while time.monotonic() - began < 4 * UNREAD_S:
            come += len(connection.recv(1 << 16))
            time.sleep(UNREAD_S / 10)
        while come < LARGE:
            part = connection.recv(1 << 20)
            assert part, f"it was cut off after {come} bytes"
            come += len(part)


def test_bodies_are_not_counted_as_heads(port: int):
    assert httpx.post(f"http://127.0.0.1:{port}", content=bytes(4 * PatientProtocol.head_bytes)).text == "ab"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (patience.SLOW, Problem(408, "head-too-slow", "the head of the request took too long")),
        (patience.LONG, Problem(431, "head-too-long", "the head of the request is longer than 64 KiB")),
    ],
)
def test_its_answers_are_problems_as_all_are(answer: bytes, told: Problem):
    head, _, body = answer.partition(b"\r\n\r\n")
    assert httpx.Response(200, content=body).json() == told.body
    assert head.startswith(b"HTTP/1.1 %d " % told.status)


def test_rays_proxies_are_given_it(monkeypatch):
    """By the name that they look up, which uvicorn may change, and in the image as on a desk."""
    monkeypatch.setattr(uvicorn.config, "HTTP_PROTOCOLS", dict(uvicorn.config.HTTP_PROTOCOLS))
    patience.in_proxy()
    config = uvicorn.Config(_app)
    config.load()
    assert config.http_protocol_class is PatientProtocol
    image = Path("infra/docker/serve.Dockerfile").read_text()
    assert re.search("=".join(PROXY_CALLBACK) + r"\b", image)
