"""The local store of assets: `NAME/FILE`, and `NAME/asset.json` with what each file was when it was last verified.

A file is hashed again only when its size or its time of change differ from that record, so that asking for an asset
costs as little as looking at its files. Knows nothing of where assets come from.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from v2meow.assets.catalogue import RECORD, Asset, AssetError, AssetFile, catalogue, to_asset, to_plain, unknown
from v2meow.files import read_json, sha256, write_json

FOLDER_VARIABLE = "V2MEOW_ASSETS"
_FORMAT = 1


@dataclass(frozen=True)
class Verified:
    """What a file was when its content was last hashed: SHA-256, bytes, and time of change in nanoseconds."""

    sha256: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Condition:
    """One file of an asset as it is here: `problem` is empty when it can be used, `found` None when it is missing."""

    file: AssetFile
    path: Path
    found: Verified | None
    problem: str


def root() -> Path:
    """The store: $V2MEOW_ASSETS, else ~/.cache/v2meow/assets."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "v2meow" / "assets"


def find(name: str, declared: Path | None = None) -> Asset:
    """The asset of that name: from the catalogue, the file `declared`, or what the store recorded when it was pulled.

    Raises AssetError when it stands nowhere.
    """
    known = catalogue(declared)
    if name in known:
        return known[name]
    record = _read_record(root() / name / RECORD)
    if record is None:
        raise unknown(name, [*known, *stored()])
    return record[0]


def stored() -> list[str]:
    """Names of the assets that the store has a record of."""
    return sorted(path.parent.name for path in root().glob(f"[!.]*/{RECORD}"))


def conditions(asset: Asset, rehash: bool = False) -> list[Condition]:
    """Every file of an asset as it is here. With `rehash` all are hashed, else those that changed since the record."""
    place, here = root() / asset.name, recorded(asset.name)
    found, hashed = [], {}
    for file in asset.files:
        path = place / file.name
        entry = None if not path.is_file() else _verified(path, None if rehash else here.get(file.name))
        found.append(Condition(file, path, entry, _problem(file, entry, here.get(file.name))))
        if entry is not None and not found[-1].problem and entry != here.get(file.name):
            hashed[file.name] = entry
    if hashed:
        _remember_if_possible(asset, hashed)
    return found


def recorded(name: str) -> dict[str, Verified]:
    """What the store's record says of an asset's files, by name; empty where there is no record."""
    record = _read_record(root() / name / RECORD)
    return record[1] if record else {}


def to_record(content: Any, name: str, source: str) -> tuple[Asset, dict[str, Verified]]:
    """Read a record's values; AssetError naming their `source` when they are not a record of that asset."""
    try:
        asset = to_asset(name, content["asset"], Path(), source)
        files = {file: Verified(**entry) for file, entry in content["files"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise AssetError(f"{source} is not a record of the asset {name}: delete it and pull again") from error
    return asset, files


def remember(asset: Asset, files: dict[str, Verified]) -> None:
    """Add verified files to an asset's record, which holds its declaration, too. The caller holds the lock."""
    entries = {name: asdict(entry) for name, entry in (recorded(asset.name) | files).items()}
    write_json(root() / asset.name / RECORD, {"format": _FORMAT, "asset": to_plain(asset), "files": entries})


def verified(path: Path, digest: str = "") -> Verified:
    """Hash a file, unless its `digest` was just taken. The time of change is read first: a change meanwhile shows."""
    state = path.stat()
    return Verified(digest or sha256(path), state.st_size, state.st_mtime_ns)


@contextmanager
def locked(name: str, wait: bool = True) -> Iterator[None]:
    """Hold an asset alone among all processes; it ends with the process. BlockingIOError when taken and not `wait`."""
    root().mkdir(parents=True, exist_ok=True)
    with (root() / f".{name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _verified(path: Path, entry: Verified | None) -> Verified:
    """What the file is now: `entry` when neither size nor time of change differ from it, else hashed."""
    state = path.stat()
    unchanged = entry is not None and (entry.size, entry.mtime_ns) == (state.st_size, state.st_mtime_ns)
    return entry if entry is not None and unchanged else verified(path)


def _problem(file: AssetFile, found: Verified | None, before: Verified | None) -> str:
    """What is wrong with a file, against its declaration and what it was when it was first verified."""
    if found is None:
        return "is missing"
    if file.size is not None and found.size != file.size:
        return f"is damaged: it has {found.size} bytes instead of {file.size}"
    known = [file.sha256]
    if before is not None and len(file.sha256) < 64:
        known.append(before.sha256)
    for expected in known:
        if not found.sha256.startswith(expected):
            return f"is damaged: its SHA-256 is {found.sha256} instead of {expected}"
    return ""


def _read_record(path: Path) -> tuple[Asset, dict[str, Verified]] | None:
    try:
        content = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise AssetError(f"{error}: delete it and pull {path.parent.name} again") from error
    return to_record(content, path.parent.name, str(path))


def _remember_if_possible(asset: Asset, files: dict[str, Verified]) -> None:
    """Without the record the next call hashes again: a read-only store, or one that is being filled, stays usable."""
    try:
        with locked(asset.name, wait=False):
            remember(asset, files)
    except OSError:
        return
