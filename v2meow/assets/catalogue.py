"""What assets there are: the catalogue that ships here, and a user's own `assets.yaml` in the same format.

An asset is a set of files as their publisher made them, with a source, a licence and what is known of their content.
Knows nothing of what is stored or fetched.
"""

import difflib
import re
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

DECLARATIONS = "assets.yaml"
RECORD = "asset.json"  # stands beside an asset's files in the store, and in a mirror that is a copy of one

_CATALOGUE = Path(__file__).with_name("catalogue.yaml")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # one plain path component, never hidden
_HASH = re.compile(r"[0-9a-f]{8,64}")


class AssetError(ValueError):
    """An asset that cannot be used; the message says what is wrong and what mends it."""


@dataclass(frozen=True, kw_only=True)
class AssetFile:
    """One file: `size` in bytes and `sha256` in hexadecimal (whole, or its beginning), where they are known."""

    name: str
    size: int | None = None
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Asset:
    """Files under one name, and where they come from: a Hugging Face repository, a web folder, a local folder.

    Without any of the three, its files are put into the store by hand.
    """

    name: str
    about: str
    licence: str
    commercial: bool
    files: tuple[AssetFile, ...]
    hub: str = ""
    revision: str = "main"
    url: str = ""
    folder: str = ""


def catalogue(declared: Path | None = None) -> dict[str, Asset]:
    """All assets by name: those that ship here, and those of the file `declared`, where it exists.

    Raises AssetError for a declaration that cannot be used, with every problem by its full key.
    """
    found = dict(_shipped())
    if declared is not None and declared.is_file():
        own = _read(declared)
        if taken := sorted(own.keys() & found.keys()):
            raise AssetError(f"{declared} declares {', '.join(taken)}, which the catalogue has: choose other names")
        found |= own
    return found


def unknown(name: str, names: list[str]) -> AssetError:
    """The error for a name that stands nowhere."""
    near = difflib.get_close_matches(name, names, n=1)
    hint = f", did you mean {near[0]}?" if near else ""
    return AssetError(
        f"there is no asset {name!r}{hint}: `v2meow assets list` shows those that there are, {DECLARATIONS} beside the "
        f"recipe may declare it, and `v2meow assets pull {name}` then puts it into the store"
    )


def to_asset(name: str, raw: Any, base: Path, source: str) -> Asset:
    """Build an asset from plain values; a relative `folder` is taken from `base`. AssetError lists the problems."""
    problems = _problems(name, raw)
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise AssetError(f"{source} cannot be used:\n{lines}")
    values = {key: value for key, value in raw.items() if key != "files"}
    if values.get("folder"):
        values["folder"] = str((base / Path(values["folder"]).expanduser()).resolve())
    files = []
    for file, facts in raw["files"].items():
        known = {key: value for key, value in (facts or {}).items() if value is not None}
        files.append(AssetFile(name=file, **known))
    return Asset(name=name, files=tuple(files), **values)


def to_plain(asset: Asset) -> dict[str, Any]:
    """An asset's declaration as `to_asset` reads it."""
    values = {field.name: getattr(asset, field.name) for field in fields(asset) if field.name not in ("name", "files")}
    defaults = {field.name: field.default for field in fields(asset)}
    files = {}
    for file in asset.files:
        facts = {"size": file.size, "sha256": file.sha256 or None}
        files[file.name] = {key: value for key, value in facts.items() if value is not None}
    return {key: value for key, value in values.items() if value != defaults[key]} | {"files": files}


@cache
def _shipped() -> dict[str, Asset]:
    return _read(_CATALOGUE)


def _read(path: Path) -> dict[str, Asset]:
    import yaml  # here, so that who only asks for a folder's path need not have it

    try:
        raw = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise AssetError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise AssetError(f"{path} must map names to assets")
    return {str(name): to_asset(str(name), value, path.parent, str(path)) for name, value in raw.items()}


def _problems(name: str, raw: Any) -> list[str]:
    """What is wrong with the declaration of one asset, each with its full key."""
    if not _NAME.fullmatch(name):
        return [f"{name!r}: a name is letters, digits, '.', '_' and '-'"]
    if not isinstance(raw, dict):
        return [f"{name}: expected a mapping, got {raw!r}"]
    texts = ("about", "licence", "hub", "revision", "url", "folder")
    kinds: dict[str, type] = {**dict.fromkeys(texts, str), "commercial": bool, "files": dict}
    found = [f"{name}.{key}: unknown key" for key in raw if key not in kinds]
    found += [f"{name}.{key}: missing" for key in ("about", "licence", "commercial", "files") if key not in raw]
    for key, kind in kinds.items():
        if key in raw and not isinstance(raw[key], kind):
            found.append(f"{name}.{key}: expected {kind.__name__}, got {raw[key]!r}")
    if len([key for key in ("hub", "url", "folder") if raw.get(key)]) > 1:
        found.append(f"{name}: give one of hub, url and folder")
    if isinstance(raw.get("hub"), str) and not re.fullmatch(r"[\w.-]+/[\w.-]+", raw["hub"]):
        found.append(f"{name}.hub: expected OWNER/REPOSITORY, got {raw['hub']!r}")
    if isinstance(raw.get("url"), str) and not raw["url"].startswith("https://"):
        found.append(f"{name}.url: must begin with https://, got {raw['url']!r}")
    files = raw.get("files")
    if isinstance(files, dict):
        found += [] if files else [f"{name}.files: at least one file is needed"]
        found += [problem for file, facts in files.items() for problem in _file_problems(f"{name}.files", file, facts)]
    return found


def _file_problems(key: str, name: Any, facts: Any) -> list[str]:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name == RECORD:
        return [f"{key}: {name!r} is not a plain file name other than {RECORD}"]
    if facts is None:
        return []
    if not isinstance(facts, dict):
        return [f"{key}.{name}: expected a mapping, got {facts!r}"]
    found = [f"{key}.{name}.{fact}: unknown key" for fact in facts if fact not in ("size", "sha256")]
    size, digest = facts.get("size"), facts.get("sha256")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 0):
        found.append(f"{key}.{name}.size: expected bytes, got {size!r}")
    if digest is not None and (not isinstance(digest, str) or not _HASH.fullmatch(digest)):
        found.append(f"{key}.{name}.sha256: expected 8 to 64 hexadecimal digits, lower case, got {digest!r}")
    return found
