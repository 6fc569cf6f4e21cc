"""What people wrote about a video: a JSON file beside it, or a row of metadata.csv in its folder or one above.

Knows nothing of what the video holds.
"""

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from v2meow.data.examine import UnusableError
from v2meow.data.manifest import DataError

TABLE = "metadata.csv"
_ATTRIBUTE = "attributes."  # a column of the table that begins so is an attribute


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """All that may be said of a video. Videos that name one `group` are of one split, as near-copies are."""

    caption: str = ""
    title: str = ""
    genre: str = ""
    licence: str = ""
    consent: str = ""
    group: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)


_TEXTS = tuple(each.name for each in fields(Sidecar) if each.name != "attributes")
_KEYS = f"{', '.join(_TEXTS)} and attributes"


class Sidecars:
    """Everything written about the videos below a folder. DataError for a table that cannot be understood."""

    def __init__(self, folder: Path) -> None:
        self._rows: dict[Path, Sidecar] = {}
        tables = sorted(folder.rglob(TABLE), key=lambda path: len(path.parts))  # a nearer table has the last word
        for table in tables:
            self._rows |= _read_table(table)

    def of(self, file: Path) -> Sidecar:
        """What is said of one video; its own JSON file goes before the table. UnusableError when that is malformed."""
        written = self._rows.get(file, Sidecar())
        said = _read_json(file.with_suffix(".json"))
        attributes = written.attributes | said.pop("attributes", {})
        return replace(written, **{key: text for key, text in said.items() if text}, attributes=attributes)

    def without_video(self, files: Iterable[Path]) -> list[Path]:
        """Files that a table names and that are not among `files`."""
        return sorted(self._rows.keys() - set(files))


def allowed(licence: str, licences: tuple[str, ...]) -> bool:
    """Whether a licence is one of those asked for, whatever its letters' case; any is where none is asked for."""
    return not licences or licence.strip().casefold() in {each.strip().casefold() for each in licences}


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        said = json.loads(path.read_bytes())
        text = json.dumps(said, ensure_ascii=False, allow_nan=False)  # NaN is not JSON, though json.loads takes it
    except OSError as error:
        raise UnusableError(f"sidecar {path.name} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UnusableError(f"sidecar {path.name} is not valid JSON: {error}") from error
    if not is_utf8(text):  # half of a surrogate pair, which JSON can spell and no table can hold
        raise UnusableError(f"sidecar {path.name} is not Unicode text")
    if not isinstance(said, dict) or not said.keys() <= {*_TEXTS, "attributes"}:
        raise UnusableError(f"sidecar {path.name} must be a mapping with no keys but {_KEYS}")
    for key, value in said.items():
        if not isinstance(value, dict if key == "attributes" else str):
            raise UnusableError(f"sidecar {path.name}: {key} must be {'a mapping' if key == 'attributes' else 'text'}")
    return said


def _read_table(path: Path) -> dict[Path, Sidecar]:
    """The rows of a table, by the files that they are about."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV table in UTF-8: {error}") from error
    found: dict[Path, Sidecar] = {}
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise DataError(f"{path}: row {number} has more or fewer columns than the first")
        unknown = [key for key in row if key not in ("file", *_TEXTS) and not key.startswith(_ATTRIBUTE)]
        if "file" not in row or unknown:
            what = f"has the unknown column {unknown[0]!r}" if unknown else "has no column `file`"
            raise DataError(f"{path} {what}: it takes file, {', '.join(_TEXTS)} and {_ATTRIBUTE}NAME")
        about = path.parent / row["file"]
        if about in found:
            raise DataError(f"{path}: row {number} is the second about {row['file']!r}")
        attributes = {key.removeprefix(_ATTRIBUTE): row[key] for key in row if key.startswith(_ATTRIBUTE) and row[key]}
        found[about] = Sidecar(**{key: row.get(key, "") for key in _TEXTS}, attributes=attributes)
    return found


def is_utf8(text: str) -> bool:
    """Whether a text, such as a file's name, can be stored in a table."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
