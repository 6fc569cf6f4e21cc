"""How long the head of a request may take, how long it may be, and how long nobody may read an answer. uvicorn bounds
none of these, and middleware sees neither a head that dribbles in nor what of an answer is still to be read.

Its protocol is what reads heads; here is one with bounds, for our own servers, KServe's, and the way to have it in
Ray's proxies. They import this module: it needs nothing but uvicorn.
"""

import asyncio
import fcntl
import json
import struct
import termios
from contextlib import suppress
from http import HTTPStatus
from typing import Any, ClassVar

import uvicorn.config
from uvicorn.protocols.http.auto import AutoHTTPProtocol


def _answer(status: HTTPStatus, kind: str, detail: str, *, retriable: bool) -> bytes:
    """A response that carries a problem, as `serving.problems` writes it."""
    title = kind.replace("-", " ")
    told = {"type": f"urn:v2meow:problem:{kind}", "title": title, "status": status, "detail": detail}
    body = json.dumps(told | {"retriable": retriable}).encode()
    head = f"HTTP/1.1 {status} {status.phrase}\r\nContent-Type: application/problem+json\r\nConnection: close\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


SLOW = _answer(HTTPStatus.REQUEST_TIMEOUT, "head-too-slow", "the head of the request took too long", retriable=True)
LONG = _answer(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "head-too-long",
    "the head of the request is longer than 64 KiB",
    retriable=False,
)


class Patience(asyncio.Protocol):
    """Before one of uvicorn's HTTP protocols: closes a connection whose next head is not whole after `head_s`, or after
    `head_bytes` and what one read brings.

    They count from when the connection is made, and after an answer from the first byte that follows: a connection
    that is merely idle then is uvicorn's own to close. One whose client has read nothing for `unread_s` of an answer
    that the system does not take is cut off, and what is left of the answer dropped.
    """

    head_s: ClassVar[float] = 10.0
    head_bytes: ClassVar[int] = 1 << 16
    unread_s: ClassVar[float] = 60.0
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    cycle: Any  # of the request whose head came last; None before the first

    _late: asyncio.TimerHandle | None = None
    _come = 0  # bytes of the head that is awaited
    _look: asyncio.TimerHandle | None = None  # at what is unread

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(0)  # to hear of every answer that the system does not take at once
        self._late = self.loop.call_later(self.head_s, self._close, SLOW)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        if self._late is None and before is not None and before.response_complete:
            self._late = self.loop.call_later(self.head_s, self._close, SLOW)
        super().data_received(data)
        if self.cycle is not before:
            self._disarm()
        elif self._late is not None:
            self._come += len(data)
            if self._come > self.head_bytes:
                self._close(LONG)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look = self.loop.call_later(self.unread_s, self._look_again, self._unread)

    def resume_writing(self) -> None:
        self._look_away()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._look_away()
        super().connection_lost(exc)

    @property
    def _unread(self) -> int:
        """Bytes that the client has not taken, here and in the system."""
        queued, connection = bytes(4), self.transport.get_extra_info("socket")
        with suppress(OSError):  # closed already
            queued = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, queued)
        return self.transport.get_write_buffer_size() + struct.unpack("i", queued)[0]

    def _look_again(self, before: int) -> None:
        now = self._unread
        if now < before:  # slowly, but it is read
            self._look = self.loop.call_later(self.unread_s, self._look_again, now)
        else:
            self.transport.abort()

    def _look_away(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def _disarm(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
        self._come = 0

    def _close(self, answer: bytes) -> None:
        if self.transport.get_protocol() is self and not self.transport.is_closing():  # else a WebSocket has taken over
            self.transport.write(answer)
            self.transport.close()


class PatientProtocol(Patience, AutoHTTPProtocol):
    """uvicorn's HTTP with these bounds."""


def in_proxy() -> None:
    """Have all connections of this process bounded, whose server hands none of uvicorn's options on, as KServe's does.

    Ray's proxies call it before they serve (RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH).
    """
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{PatientProtocol.__name__}"
