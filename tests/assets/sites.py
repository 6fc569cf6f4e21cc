"""A real web server on this machine that serves files with ranges, redirects like the hub, and fails on demand."""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What is served by path, what goes wrong with it (each fault once, in order), and what was asked."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    hub_hash: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    absent: bytes = b""

    def hub(self, repository: str, name: str, content: bytes) -> None:
        """A large file of the hub: the repository redirects to storage, and says the file's hash on the way."""
        path = f"/{repository}/resolve/main/{name}"
        self.moved[path], self.files[f"/storage/{name}"] = f"/storage/{name}", content
        self.hub_hash[path] = hashlib.sha256(content).hexdigest()

    def ranges(self, path: str) -> list[str | None]:
        """The Range header of each request for a path."""
        return [extent for asked, extent, _ in self.asked if asked == path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self) -> None:
        site, extent = self.site, self.headers.get("Range")
        site.asked.append((self.path, extent, self.headers.get("Authorization")))
        faults = site.faults.get(self.path, [])
        fault = faults.pop(0) if faults else ""
        status, _, wait = fault.partition(" ")
        if status.isdecimal():
            self._answer(int(status), b"", {"Retry-After": wait})
        elif self.path in site.moved:
            headers = {"Location": site.moved[self.path], "X-Linked-ETag": f'"{site.hub_hash.get(self.path, "")}"'}
            self._answer(302, b"", headers)
        elif self.path not in site.files:
            self._answer(404, site.absent, {})
        else:
            self._content(site.files[self.path], extent, fault)

    def _content(self, content: bytes, extent: str | None, fault: str) -> None:
        begin = int(extent.removeprefix("bytes=").rstrip("-")) if extent else 0
        if begin and begin >= len(content):
            self._answer(416, b"", {})
            return
        headers = {"Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"} if begin else {}
        body = content[begin:]
        if fault == "wrong":
            body = bytes(byte ^ 1 for byte in body)
        if fault == "slow":
            time.sleep(1.0)
        sent = body[: len(body) // 2] if fault == "truncated" else body
        self._answer(206 if begin else 200, sent, headers, length=len(body))
        if fault == "truncated":
            self.close_connection = True

    def _answer(self, status: int, body: bytes, headers: dict[str, str], length: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: what was asked is in `Site.asked`."""


@contextmanager
def served() -> Iterator[Site]:
    """A site at an address of its own while the block runs."""
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": site}))
    site.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
