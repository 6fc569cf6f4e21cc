"""API keys: who may ask, how often, how much at once. Only their hashes are kept.

A key has 256 random bits, so that a plain SHA-256 hides it: there is nothing to guess.
"""

import fcntl
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from serving.problems import Problem
from v2meow.files import DamagedFileError, atomic_file, read_json

log = logging.getLogger("v2meow.serving")
_PREFIX = "v2m_"
_MINUTE = 60.0
OPEN = "anybody"  # the owner of what was asked for where no keys are in use


class KeyFileError(ValueError):
    """A file of keys that cannot be used, or a key that is not in it."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key: `per_minute` requests, `concurrent` generations, until `expires`, seconds since 1970; None is never."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created: float
    expires: float | None
    per_minute: Annotated[int, Field(strict=True)]
    concurrent: Annotated[int, Field(strict=True)]


_KEYS = TypeAdapter(list[Key])


def create(file: Path, name: str, *, per_minute: int, concurrent: int, days: float | None) -> str:
    """Add a key to the file; the key itself, which is shown this once. KeyFileError for a name that is taken."""
    if not re.fullmatch(r"[\w.@-]{1,64}", name):
        raise KeyFileError(f"{name!r} cannot be a key's name: letters, digits and . @ - _, 64 at most")
    secret = _PREFIX + secrets.token_urlsafe(32)
    expires = None if days is None else time.time() + days * 86400
    new = Key(
        name=name,
        sha256=_hash(secret),
        created=time.time(),
        expires=expires,
        per_minute=per_minute,
        concurrent=concurrent,
    )
    with _alone(file):
        keys = read(file) if file.exists() else []
        if any(key.name == name for key in keys):
            raise KeyFileError(f"{file} has a key {name} already: revoke it first")
        _write(file, [*keys, new])
    return secret


def revoke(file: Path, name: str) -> None:
    """Take a key out of the file; servers notice within a second. KeyFileError for one that is not there."""
    with _alone(file):
        keys = read(file)
        left = [key for key in keys if key.name != name]
        if len(left) == len(keys):
            raise KeyFileError(f"{file} has no key {name}: it has {', '.join(key.name for key in keys) or 'none'}")
        _write(file, left)


def read(file: Path) -> list[Key]:
    """The keys of a file. KeyFileError when it is missing or damaged: then nobody may come in."""
    try:
        return _KEYS.validate_python(read_json(file)["keys"])
    except FileNotFoundError:
        raise KeyFileError(f"there is no file of keys {file}: make one with `v2meow keys create NAME`") from None
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, one['loc'])) or 'keys'}: {one['msg']}" for one in error.errors())
        raise KeyFileError(f"{file} is no file of keys: {'; '.join(faults)}") from None
    except (DamagedFileError, TypeError, KeyError) as error:
        raise KeyFileError(f"{file} is no file of keys: {error}") from None
    except OSError as error:
        raise KeyFileError(f"{file} cannot be read: {error.strerror}") from None


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Nobody else changes the file meanwhile: of two who add a key at once neither undoes the other's."""
    if not file.absolute().parent.is_dir():
        raise KeyFileError(f"there is no folder for {file}")
    folder = os.open(file.absolute().parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _write(file: Path, keys: list[Key]) -> None:
    with atomic_file(file) as temporary:
        temporary.touch(mode=0o600)  # before there is anything in it
        temporary.write_text(json.dumps({"keys": [asdict(key) for key in keys]}, indent=2, sort_keys=True) + "\n")


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class Doorkeeper:
    """Lets requests in by their keys. The file is read again when it changes; limits hold for this process."""

    def __init__(self, file: Path | None) -> None:
        self._file, self._stamp = file, None
        self._keys: list[Key] = []
        self._asked: dict[str, deque[float]] = {}
        self._at_work: dict[str, int] = {}
        if file is not None:
            self._refresh()

    def admit(self, secret: str | None) -> Key | None:
        """As `recognise`, for what costs something. Problem 429, too, when the key asked too often."""
        key = self.recognise(secret)
        if key is not None:
            self._count(key)
        return key

    def recognise(self, secret: str | None) -> Key | None:
        """The key that a request shows; None where none is needed. Problem 401, or 503 while there is no file."""
        if self._file is None:
            return None
        try:
            self._refresh()
        except KeyFileError as error:
            log.error("nobody is let in: %s", error)
            raise Problem(503, "keys-unavailable", "keys cannot be checked at present", retry_after=30.0) from None
        if secret is None:
            raise Problem(401, "key-missing", "send an API key: Authorization: Bearer KEY")
        given = _hash(secret)
        key = next((key for key in self._keys if hmac.compare_digest(key.sha256, given)), None)
        if key is None:
            raise Problem(401, "key-unknown", "this API key is not known")
        if key.expires is not None and key.expires < time.time():
            raise Problem(401, "key-expired", "this API key has expired")
        return key

    def begin(self, key: Key | None) -> Callable[[], None]:
        """Count a generation of the key's as under way, until what is returned is called. Problem 429 at too many."""
        if key is None:
            return lambda: None
        if self._at_work.get(key.name, 0) >= key.concurrent:
            reason = f"this API key has {key.concurrent} generations under way, as many as it may"
            raise Problem(429, "too-many-at-once", reason, retry_after=5.0)
        self._at_work[key.name] = self._at_work.get(key.name, 0) + 1
        under_way = [key.name]

        def end() -> None:
            while under_way:  # once, however often it is called
                self._at_work[under_way.pop()] -= 1

        return end

    def _count(self, key: Key) -> None:
        now, asked = time.monotonic(), self._asked.setdefault(key.name, deque())
        while asked and asked[0] <= now - _MINUTE:
            asked.popleft()
        if len(asked) >= key.per_minute:
            reason = f"this API key may ask {key.per_minute} times a minute"
            raise Problem(429, "too-often", reason, retry_after=asked[0] + _MINUTE - now)
        asked.append(now)

    def _refresh(self) -> None:
        assert self._file is not None
        try:
            stamp = self._file.stat().st_mtime_ns, self._file.stat().st_ino
        except OSError:
            stamp = None
        if stamp is None or stamp != self._stamp:
            self._keys, self._stamp = read(self._file), stamp
