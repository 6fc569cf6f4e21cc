"""Requests that no client means, as bytes: forms that are cut, lengths that are wrong, rubbish of every kind."""

import random
import socket
from contextlib import suppress

_PATIENCE_S = 10.0
_HEADERS = [
    "Authorization: Bearer",
    "X-API-Key: ",
    "Idempotency-Key: ",
    "Content-Type: ",
    "Accept: ",
    "Expect: ",
    "X: ",
]
_METHODS = ["GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS", "PATCH", "get", ""]
_PATHS = [
    "/v1/generations",
    "/v1/generations/" + "0" * 32,
    "/v1/generations/%00",
    "/v1/generations/" + "a" * 3000,
    f"/v1/generations/{'0' * 32}/takes/{'9' * 400}?format=mp4",
    "/v1/models",
    "/metrics",
    "/docs",
    "/readyz",
    "//",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/%ff%fe",
    "/app.js",
    "*",
    "http://elsewhere/",
]
_FIELDS = ["video", "source", "prompt", "seconds", "seed", "takes", "model", "format", "mode", "", "x"]
_VALUES = [
    "",
    "0",
    "-1",
    "1e400",
    "nan",
    "9" * 30,
    "\0",
    "\x80",
    "s3://videos/../x",
    "é",
    "null",
    "[]",
    "wav",
    "a" * 2000,
]


def form(video: bytes, rest: random.Random, fields: int) -> tuple[bytes, bytes]:
    """Boundary and body of a form with a video and random fields."""
    boundary, parts = b"b%d" % rest.randrange(1000), []
    if rest.random() < 0.7:
        parts.append(b'Content-Disposition: form-data; name="video"; filename="v.mp4"\r\n\r\n' + video)
    for _ in range(rest.randrange(fields + 1)):
        name, value = rest.choice(_FIELDS).encode(), rest.choice(_VALUES).encode("latin-1")
        parts.append(b'Content-Disposition: form-data; name="%s"\r\n\r\n%s' % (name, value))
    body = b"".join(b"--%s\r\n%s\r\n" % (boundary, part) for part in parts)
    return boundary, body + b"--%s--\r\n" % boundary


def malformed(rest: random.Random) -> bytes:
    """One request that is wrong in some way, or in several."""
    kind = rest.randrange(6)
    if kind == 0:
        return rest.randbytes(rest.randrange(1, 400))
    if kind == 1:
        head = f"{rest.choice(_METHODS)} {rest.choice(_PATHS)} HTTP/1.1\r\nHost: x\r\n"
        extra = "".join(f"{rest.choice(_HEADERS)}{rest.choice(_VALUES)}\r\n" for _ in range(rest.randrange(4)))
        return (head + extra).encode("latin-1", "replace") + b"\r\n"
    boundary, body = form(rest.randbytes(rest.randrange(2000)), rest, 4)
    length = len(body)
    if kind == 2:
        body = body[: rest.randrange(len(body))]
    elif kind == 3:
        length = rest.choice([0, len(body) // 2, len(body) + 10, 1 << 40])
    elif kind == 4:
        broken = bytearray(body)
        for _ in range(rest.randrange(1, 8)):
            broken[rest.randrange(len(broken))] = rest.randrange(256)
        body = bytes(broken)
    head = b"POST /v1/generations HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=%s\r\n" % boundary
    if kind == 5:
        size = b"%x" % len(body) if rest.random() < 0.5 else rest.choice([b"-1", b"zz", b"0", b"ffffffffff"])
        return head + b"Transfer-Encoding: chunked\r\n\r\n%s\r\n%s\r\n0\r\n\r\n" % (size, body)
    return head + b"Content-Length: %d\r\n\r\n" % length + body


def send(port: int, request: bytes) -> int:
    """The status of the answer to a request after which nothing more comes; 0 when the connection is just closed.

    TimeoutError where neither happens.
    """
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S) as connection:
        with suppress(ConnectionError, BrokenPipeError):
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while len(answer) < 12 and (more := connection.recv(65536)):
                answer += more
    return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0
