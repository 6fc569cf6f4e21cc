"""How long the head of a request may take. uvicorn has no such bound, and no middleware sees a head that dribbles in.

Its protocol is what reads heads; here is one with a bound, for our own servers, and the way to have it in Ray's
proxies. They import this module: it needs nothing but uvicorn.
"""

import asyncio
import json
from typing import Any, ClassVar

import uvicorn.config
from uvicorn.protocols.http.auto import AutoHTTPProtocol

_BODY = json.dumps(
    {
        "type": "urn:v2meow:problem:head-too-slow",
        "title": "head too slow",
        "status": 408,
        "detail": "the head of the request took too long",
        "retriable": True,
    }
).encode()
_ANSWER = (
    b"HTTP/1.1 408 Request Timeout\r\nContent-Type: application/problem+json\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)


class Patience(asyncio.Protocol):
    """Before one of uvicorn's HTTP protocols: closes a connection whose next head is not whole after `head_s`.

    They count from when the connection is made, and after an answer from the first byte that follows: a connection
    that is merely idle then is uvicorn's own to close.
    """

    head_s: ClassVar[float] = 10.0
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    cycle: Any  # of the request whose head came last; None before the first

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._late = self.loop.call_later(self.head_s, self._close)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        if self._late is None and before is not None and before.response_complete:
            self._late = self.loop.call_later(self.head_s, self._close)
        super().data_received(data)
        if self.cycle is not before:
            self._disarm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def _disarm(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _close(self) -> None:
        if self.transport.get_protocol() is self and not self.transport.is_closing():  # else a WebSocket has taken over
            self.transport.write(_ANSWER)
            self.transport.close()


class PatientProtocol(Patience, AutoHTTPProtocol):
    """uvicorn's HTTP with a bound on heads."""


def in_proxy() -> None:
    """What Ray's proxies call before they serve (RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH): theirs is patient, too."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{PatientProtocol.__name__}"
