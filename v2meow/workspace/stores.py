"""Where objects of DVC lie: the cache, and the remotes. Those that are folders here can be looked through.

For what must disappear from every version, which DVC has no command for. Knows the layout of DVC 3, not what is in it.
"""

import configparser
from collections.abc import Iterator
from pathlib import Path

from v2meow.workspace.cache import cache_folder


def stores(workspace: Path) -> tuple[list[Path], list[str]]:
    """The cache and the remotes that are folders here; and the addresses of the other remotes."""
    folders, elsewhere = [cache_folder(workspace).resolve()], []
    for address in _remotes(workspace):
        folder = (workspace / ".dvc" / address).resolve()
        if "://" in address:
            elsewhere.append(address)
        elif folder not in folders:
            folders.append(folder)
    return folders, elsewhere


def objects(store: Path) -> Iterator[Path]:
    """Every object of a store; a listing of a folder's files ends in .dir."""
    for prefix in sorted((store / "files" / "md5").glob("??")):
        yield from sorted(path for path in prefix.iterdir() if path.is_file())


def _remotes(workspace: Path) -> list[str]:
    """Addresses as the configuration spells them, the local one having the last word on each remote."""
    found: dict[str, str] = {}
    for name in ("config", "config.local"):
        parser = configparser.ConfigParser(interpolation=None)
        parser.read(workspace / ".dvc" / name)
        for section in parser.sections():
            if section.strip("'").startswith("remote ") and parser.has_option(section, "url"):
                found[section] = parser.get(section, "url")
    return sorted(found.values())
