"""A proxy before an object store that loses answers, refuses or hangs up, as a network and a busy store do."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class Faults:
    """What goes wrong next with requests of each method, in order: a status, `lost` (done, no answer) or `cut`."""

    address: str = ""
    planned: dict[str, list[str]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def count(self, method: str) -> int:
        return sum(1 for asked, _ in self.asked if asked == method)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    faults: Faults
    store: str

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.faults.asked.append((self.command, self.path))
        planned = self.faults.planned.get(self.command, [])
        fault = planned.pop(0) if planned else ""
        if fault.isdecimal():
            self._answer(int(fault), b"<Error><Code>Planned</Code><Message>no</Message></Error>", {})
        elif fault == "cut":
            self.close_connection = True
        else:
            status, headers, content = self._ask_store(body)
            if fault == "lost":
                self.close_connection = True
            else:
                self._answer(status, content, headers)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _forward  # noqa: N815

    def _ask_store(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        parts = urlsplit(self.store)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():  # the signature covers the name by which the client called us
            if name.lower() != "expect":
                connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), content

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        kept = {name: value for name, value in headers.items() if name.lower() not in ("connection", "date", "server")}
        if self.command != "HEAD":
            kept["Content-Length"] = str(len(content))
        for name, value in kept.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: what was asked is in `Faults.asked`."""


@contextmanager
def faulty(store: str) -> Iterator[Faults]:
    """The store at that address, behind an address of its own, while the block runs."""
    faults = Faults()
    handler = type("Handler", (_Handler,), {"faults": faults, "store": store})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    faults.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield faults
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
