"""What DVC's cache holds: the files of an output as its last version was, where they lie there.

Knows the layout of DVC 3's cache, and nothing of what the files mean.
"""

import configparser
from pathlib import Path

from v2meow.files import read_json
from v2meow.workspace.history import locked


def cache_folder(workspace: Path) -> Path:
    """Where DVC keeps its objects, wherever the workspace's configuration puts them; worktrees share it."""
    found = workspace / ".dvc" / "cache"
    for name in ("config", "config.local"):
        parser = configparser.ConfigParser(interpolation=None)
        parser.read(workspace / ".dvc" / name)
        if parser.has_option("cache", "dir"):
            found = workspace / ".dvc" / parser.get("cache", "dir")
    return found


def last_version(workspace: Path, output: str) -> dict[str, Path]:
    """Files by their name in the folder `output` as dvc.lock has it; none where one of them is not in the cache."""
    lock = workspace / "dvc.lock"
    digest = locked(lock.read_bytes()).get(output) if lock.is_file() else None
    if not digest or not (listing := _object(workspace, digest)).is_file():
        return {}
    files = {entry["relpath"]: _object(workspace, entry["md5"]) for entry in read_json(listing)}
    return files if all(path.is_file() for path in files.values()) else {}


def _object(workspace: Path, digest: str) -> Path:
    return cache_folder(workspace) / "files" / "md5" / digest[:2] / digest[2:]
