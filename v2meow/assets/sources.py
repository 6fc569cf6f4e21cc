"""Where the bytes of assets come from: a web address, a local folder, or an S3 bucket, opened at any offset.

Says of an interrupted transfer that another attempt may succeed, and of everything else what is wrong. Never follows
a redirection to another scheme, and shows a token to no other host than the hub.
"""

import errno
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit

from v2meow.assets.catalogue import Asset, AssetError

MIRROR_VARIABLE = "V2MEOW_ASSETS_MIRROR"

_TIMEOUT_S = 60.0  # without a single byte
_HUB_HASH = "X-Linked-ETag"
_PASSING = (408, 425, 429, 500, 502, 503, 504)


class AbsentError(AssetError):
    """There is no such file at its source."""


class DeniedError(AssetError):
    """The source refuses the file to whoever asks."""


class PassingError(AssetError):
    """A transfer that failed and may succeed if it is tried again, after `wait` seconds where the source said so."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


class UnreachableError(AssetError):
    """The source cannot be reached at all, for want of a network or of a server."""


class PastEndError(AssetError):
    """The file is not as long as the offset that was asked for."""


@dataclass(frozen=True)
class Content:
    """A file from `offset` on: `size` of the whole file, and the source's own hash, where it tells them."""

    read: Callable[[int], bytes]
    offset: int = 0
    size: int | None = None
    sha256: str = ""


def published(asset: Asset, file: str) -> str:
    """Where a file was published: a URL, a path, or empty for an asset without a source."""
    if asset.hub:
        return f"{_hub()}/{asset.hub}/resolve/{quote(asset.revision)}/{quote(file)}"
    if asset.url:
        return f"{asset.url.rstrip('/')}/{quote(file)}"
    return str(Path(asset.folder) / file) if asset.folder else ""


def mirrored(mirror: str, asset: Asset, file: str) -> str:
    """Where a mirror (a folder, http(s)://… or s3://BUCKET/PREFIX) keeps a file: NAME/FILE. AssetError for others."""
    if "://" not in mirror:
        return str(Path(mirror).expanduser() / asset.name / file)
    parts = urlsplit(mirror)
    if parts.scheme not in ("http", "https", "s3") or not parts.hostname or parts.query:
        raise AssetError(f"a mirror is a folder, http(s)://HOST/PATH or s3://BUCKET/PREFIX, not {parts.scheme}://…")
    if parts.username is not None:
        raise AssetError("a mirror's address must not hold a user or a password: it would be shown and recorded")
    return f"{mirror.rstrip('/')}/{quote(asset.name)}/{quote(file)}"


def opened(location: str, offset: int = 0) -> AbstractContextManager[Content]:
    """Open what `published` or `mirrored` returned, from `offset` on.

    The content may begin at 0 all the same, where the source cannot begin elsewhere. Raises the errors above.
    """
    if location.startswith("s3://"):
        from v2meow.assets import s3

        return s3.opened(location, offset)
    return _web(location, offset) if "://" in location else _local(Path(location), offset)


@contextmanager
def _local(path: Path, offset: int) -> Iterator[Content]:
    try:
        file = path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        raise AbsentError(f"{path} does not exist") from None
    with file:
        size = os.fstat(file.fileno()).st_size
        if offset > size:
            raise PastEndError(f"{path} has {size} bytes only")
        file.seek(offset)
        yield Content(file.read, offset, size)


@contextmanager
def _web(url: str, offset: int) -> Iterator[Content]:
    facts: dict[str, str] = {}
    with _answer(url, offset, facts) as answer:
        _note(facts, answer.headers)
        begins, size = _extent(answer.headers, answer.status, offset, url)

        def read(amount: int) -> bytes:
            try:
                return answer.read(amount)
            except (OSError, HTTPException) as error:
                raise PassingError(f"{url} broke off: {error or type(error).__name__}") from error

        yield Content(read, begins, size, facts.get(_HUB_HASH, ""))


def _answer(url: str, offset: int, facts: dict[str, str]) -> Any:
    """The server's answer, after redirections, whose headers are noted in `facts` on the way."""
    asked = request.Request(url, headers={"User-Agent": "v2meow", "Accept-Encoding": "identity"})  # noqa: S310
    if offset:
        asked.add_header("Range", f"bytes={offset}-")
    token = os.environ.get("HF_TOKEN")
    if token and urlsplit(url)[:2] == urlsplit(_hub())[:2]:
        asked.add_unredirected_header("Authorization", f"Bearer {token}")
    opener = request.OpenerDirector()  # build_opener would also open file:, ftp: and data:
    for handler in (
        request.ProxyHandler(),
        request.HTTPHandler(),
        request.HTTPSHandler(),
        request.HTTPDefaultErrorHandler(),
        request.HTTPErrorProcessor(),
        _Redirections(facts),
    ):
        opener.add_handler(handler)
    try:
        return opener.open(asked, timeout=_TIMEOUT_S)
    except HTTPError as error:
        error.close()
        raise _refusal(url, error) from None
    except URLError as error:
        raise _no_connection(url, error.reason) from error
    except (OSError, HTTPException) as error:
        raise PassingError(f"{url} broke off: {error or type(error).__name__}") from error


class _Redirections(request.HTTPRedirectHandler):
    """Follows to the same scheme or to https only; the hub's facts about a file stand in the redirecting answer."""

    def __init__(self, facts: dict[str, str]) -> None:
        self._facts = facts

    def redirect_request(
        self, req: request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> request.Request | None:
        new, old = urlsplit(newurl), urlsplit(req.full_url)
        if new.scheme not in ("https", old.scheme):
            raise HTTPError(req.full_url, code, "another scheme", headers, fp)
        _note(self._facts, headers)
        follow = super().redirect_request(req, fp, code, msg, headers, newurl)
        token = req.unredirected_hdrs.get("Authorization")
        if follow is not None and token and new[:2] == old[:2]:  # a renamed repository; never the storage behind it
            follow.add_unredirected_header("Authorization", token)
        return follow


def _note(facts: dict[str, str], headers: HTTPMessage) -> None:
    """Note the hash of a large file; small ones have git's own (40 digits), which is not of the content alone."""
    digest = (headers.get(_HUB_HASH) or "").strip('"')
    if len(digest) == 64:
        facts.setdefault(_HUB_HASH, digest)


def _extent(headers: HTTPMessage, status: int, offset: int, url: str) -> tuple[int, int | None]:
    """Where an answer begins, and the size of the whole file."""
    if status == 206:
        unit, _, extent = (headers.get("Content-Range") or "").partition(" ")
        begins, _, _ = extent.partition("-")
        if unit != "bytes" or begins != str(offset):
            raise AssetError(f"{url} answers with another part of the file than was asked for")
        size = extent.rpartition("/")[2]
        return offset, int(size) if size.isdecimal() else None
    length = headers.get("Content-Length") or ""
    return 0, int(length) if length.isdecimal() else None


def _refusal(url: str, error: HTTPError) -> AssetError:
    if error.code == 404:
        return AbsentError(f"{url} does not exist")
    if error.code in (301, 302, 303, 307, 308):
        return AssetError(f"{url} redirects to an address that is not followed")
    if error.code == 416:
        return PastEndError(f"{url} is not that long")
    if error.code in (401, 403):
        mend = ": accept its terms on the hub and set HF_TOKEN" if url.startswith(_hub()) else ""
        return DeniedError(f"{url} is refused (status {error.code}){mend}")
    message = f"{url} answers with status {error.code}"
    if error.code not in _PASSING:
        return AssetError(message)
    wait = error.headers.get("Retry-After") or ""
    return PassingError(message, float(wait) if wait.isdecimal() else 0.0)


def _no_connection(url: str, reason: Any) -> AssetError:
    host = urlsplit(url).netloc
    if isinstance(reason, ssl.SSLCertVerificationError):
        return AssetError(f"{host} is not who it says it is: {reason}")
    no_way = isinstance(reason, OSError) and reason.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH)
    if no_way or isinstance(reason, (socket.gaierror, ConnectionRefusedError, TimeoutError)):
        return UnreachableError(f"there is no connection to {host}: {reason}")
    return PassingError(f"the connection to {host} failed: {reason}")


def _hub() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
