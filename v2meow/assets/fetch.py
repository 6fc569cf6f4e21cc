"""Fetching assets into the store: resumed where it broke off, verified before anything appears under its name.

A file is written beside its place and renamed. What is left of an interrupted transfer is gone on with only where a
hash will tell whether the parts belong together. One process at a time fetches an asset; others wait and find it.
"""

import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from v2meow.assets import store
from v2meow.assets.catalogue import RECORD, Asset, AssetError, AssetFile
from v2meow.assets.sources import (
    AbsentError,
    Content,
    DeniedError,
    PassingError,
    PastEndError,
    UnreachableError,
    mirrored,
    opened,
    published,
)
from v2meow.files import sha256
from v2meow.progress import progress

_DELAYS_S = (1.0, 2.0, 4.0, 8.0)  # between attempts; a server that asks for more is given up to _LONGEST_DELAY_S
_LONGEST_DELAY_S = 60.0
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Pulled:
    """What `pull` did for one asset, in numbers of files."""

    name: str
    fetched: int
    present: int


def pull(assets: Sequence[Asset], mirror: str | None = None) -> list[Pulled]:
    """Fetch what is missing or damaged of these assets, from the mirror, else from where they were published.

    Raises AssetError for what cannot be fetched or is not what it should be. When the source cannot be reached, the
    error lists every file that is still wanted, with its place and its URL.
    """
    try:
        return [_pull(asset, mirror) for asset in assets]
    except UnreachableError as error:
        raise UnreachableError(f"{error}\nput these files there by other means:\n{wanted(assets)}") from error


def wanted(assets: Iterable[Asset]) -> str:
    """The missing and damaged files of these assets, one a line: the full path, what is wrong, where it comes from."""
    bad = [(asset, state) for asset in assets for state in store.conditions(asset) if state.problem]
    lines = [f"  {state.path} {state.problem}, from {_origin(asset, state.file)}" for asset, state in bad]
    return "\n".join(lines)


def _pull(asset: Asset, mirror: str | None) -> Pulled:
    with store.locked(asset.name):
        states = store.conditions(asset)
        bad = [state for state in states if state.problem]
        # The declaration, too: one of the user's own is then known wherever this store is.
        store.remember(asset, {s.file.name: s.found for s in states if s.found and not s.problem})
        digests = _mirror_digests(asset, mirror) if bad and mirror else {}
        for state in bad:
            location = mirrored(mirror, asset, state.file.name) if mirror else published(asset, state.file.name)
            if not location:
                raise AssetError(f"{asset.name} has no source; put this file into the store: {state.path}")
            label = f"{asset.name}/{state.file.name}, MiB"
            digest = _fetch(_Target(state.path, state.file, digests.get(state.file.name, ""), location, label))
            store.remember(asset, {state.file.name: store.verified(state.path, digest)})
    return Pulled(asset.name, len(bad), len(asset.files) - len(bad))


def _mirror_digests(asset: Asset, mirror: str) -> dict[str, str]:
    """Hashes from the record of a mirror that is a copy of a store; empty for one that holds files only."""
    location = mirrored(mirror, asset, RECORD)
    try:
        with opened(location) as content:
            raw = json.loads(content.read(_BLOCK))
    except (AbsentError, DeniedError):  # S3 refuses what is absent where names may not be listed
        return {}
    except ValueError as error:
        if isinstance(error, AssetError):
            raise
        raise AssetError(f"{location} is not valid JSON: {error}") from error
    _, files = store.to_record(raw, asset.name, location)
    return {name: entry.sha256 for name, entry in files.items()}


@dataclass(frozen=True)
class _Target:
    """A file to fetch: its place, what is known of it, and where it comes from."""

    path: Path
    file: AssetFile
    digest: str  # from a mirror's record, or empty
    location: str
    label: str

    @property
    def part(self) -> Path:
        """What there is of the file until it is verified."""
        return self.path.with_name(f".{self.path.name}.part")

    def expected(self, content: Content) -> list[str]:
        """All that is known of the file's hash, some of it perhaps its beginning only."""
        return [known for known in (self.file.sha256, self.digest, content.sha256) if known]


def _fetch(target: _Target) -> str:
    """Fetch one file, in as many attempts as are worth while; its SHA-256."""
    target.path.parent.mkdir(parents=True, exist_ok=True)
    for delay in (*_DELAYS_S, None):
        try:
            return _attempt(target)
        except PassingError as error:
            if delay is None:
                raise AssetError(f"{error}; nothing is kept as {target.path.name}, pull again to go on") from error
            time.sleep(min(max(delay, error.wait), _LONGEST_DELAY_S))
    raise AssertionError("the last attempt returns or raises")


def _attempt(target: _Target) -> str:
    begun = target.part.stat().st_size if target.part.exists() else 0
    try:
        with opened(target.location, begun) as content:
            known = target.expected(content)
            if known or not content.offset:  # else nothing would tell whether the parts belong together
                _write(target, content)
                digest = _judge(target, content, known)
                target.part.replace(target.path)
                return digest
    except PastEndError:
        pass
    target.part.unlink()
    return _attempt(target)  # from the beginning


def _write(target: _Target, content: Content) -> None:
    """Write the content behind what is there already, durably."""
    size = content.size or target.file.size or 0
    try:
        with target.part.open("ab" if content.offset else "wb") as file, progress(target.label, _mib(size)) as bar:
            bar.advance(done := content.offset >> 20)
            while block := content.read(_BLOCK):
                file.write(block)
                bar.advance((file.tell() >> 20) - done)
                done = file.tell() >> 20
            bar.advance(_mib(file.tell()) - done)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, f"could not write {target.path}: {error.strerror or error}") from error


def _judge(target: _Target, content: Content, known: list[str]) -> str:
    """Compare size and hash of what was fetched with all that is known; what is wrong is deleted. The SHA-256."""
    size = target.part.stat().st_size
    if content.size is not None and size < content.size:
        raise PassingError(f"{target.location} broke off after {size} of {content.size} bytes")
    if target.file.size is not None and size != target.file.size:
        problem = f"has {size} bytes instead of {target.file.size}"
    else:
        digest = sha256(target.part)
        wrong = [expected for expected in known if not digest.startswith(expected)]
        if not wrong:
            return digest
        problem = f"has the SHA-256 {digest} instead of {wrong[0]}"
    target.part.unlink()
    if content.offset:  # the file may have changed between its two parts: once more, from the beginning
        raise PassingError(f"{target.location}, resumed, {problem}")
    raise AssetError(f"{target.location} {problem}: nothing of it is kept")


def _origin(asset: Asset, file: AssetFile) -> str:
    return published(asset, file.name) or "where it was made"


def _mib(size: int) -> int:
    return ceil(size / (1 << 20))
