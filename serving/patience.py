"""How long the head of a request may take, and how long it may be. uvicorn bounds neither, and middleware sees no head
that dribbles in.

Its protocol is what reads heads; here is one with bounds, for our own servers, KServe's, and the way to have it in
Ray's proxies. They import this module: it needs nothing but uvicorn.
"""

import asyncio
import json
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
    that is merely idle then is uvicorn's own to close.
    """

    head_s: ClassVar[float] = 10.0
    head_bytes: ClassVar[int] = 1 << 16
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    cycle: Any  # of the request whose head came last; None before the first

    _late: asyncio.TimerHandle | None = None
    _come = 0  # bytes of the head that is awaited

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
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

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

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
    """uvicorn's HTTP with bounds on heads."""


def in_proxy() -> None:
    """Have all heads of this process bounded, whose server hands none of uvicorn's options on, as KServe's does.

    Ray's proxies call it before they serve (RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH).
    """
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{PatientProtocol.__name__}"
