"""What was found out about files before: hashes by name and time, examinations by content and settings.

Lies in DVC's cache folder, which the worktrees of a workspace share, but is none of DVC's objects: it may be deleted at
any time and is then made anew. A damaged entry counts as missing.
"""

import base64
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from v2meow.config import Recipe
from v2meow.data.examine import Examined, UnusableError
from v2meow.data.measure import Sound
from v2meow.data.similar import Fingerprint
from v2meow.files import atomic_file, sha256
from v2meow.media import Probe
from v2meow.workspace import cache_folder

_EDITION = 1  # of what an examination says; another one is made anew
_SETTLED_NS = 2_000_000_000  # a file changed this recently may change again at the same time of the clock
_HASHES = pa.schema(
    [
        *((name, pa.string()) for name in ("path", "sha256")),
        *((name, pa.int64()) for name in ("size", "mtime_ns", "ctime_ns", "inode")),
    ]
)
Stat = tuple[int, int, int, int]


def own_folder(workspace: Path) -> Path:
    """The project's own folder beside DVC's objects."""
    return cache_folder(workspace) / "v2meow"


def forget(workspace: Path, digest: str) -> int:
    """Remove every examination of a content; how many there were."""
    found = list((own_folder(workspace) / "examined" / digest[:2]).glob(f"{digest}-*.json"))
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


class Hashes:
    """SHA-256 of files, taken anew only where size, times or inode changed. `save` keeps what is still in use."""

    def __init__(self, workspace: Path) -> None:
        place = hashlib.sha256(str(workspace.resolve()).encode(errors="surrogateescape")).hexdigest()[:16]
        self._path = own_folder(workspace) / "hashes" / f"{place}.parquet"
        self._known = _read_hashes(self._path)
        self._used: dict[str, tuple[Stat, str]] = {}

    def __call__(self, file: Path) -> str:
        """The hash of a file's content. Raises OSError when it cannot be read."""
        about = file.stat()
        stat = (about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino)
        name = str(file)
        before = self._known.get(name)
        digest = before[1] if before is not None and before[0] == stat else sha256(file)
        if time.time_ns() - max(about.st_mtime_ns, about.st_ctime_ns) > _SETTLED_NS:
            self._used[name] = (stat, digest)
        return digest

    def save(self) -> None:
        rows = [(name, digest, *stat) for name, (stat, digest) in sorted(self._used.items())]
        columns = list(zip(*rows, strict=True)) or [()] * len(_HASHES)
        with atomic_file(self._path) as temporary:
            pq.write_table(pa.table([list(column) for column in columns], schema=_HASHES), temporary)


class Examinations:
    """Examinations of contents with one recipe's settings."""

    def __init__(self, recipe: Recipe, workspace: Path) -> None:
        self._folder = own_folder(workspace) / "examined"
        self._settings = _settings(recipe)

    def get(self, digest: str) -> Examined | UnusableError | None:
        """What became of the content with this SHA-256 before; None when that is not known."""
        try:
            envelope = json.loads(self._path(digest).read_bytes())
            body = envelope["body"]
            if envelope["sha256"] != hashlib.sha256(body.encode()).hexdigest():
                return None
            return _loaded(json.loads(body))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, digest: str, result: Examined | UnusableError) -> None:
        """Keep a result. A file that could not be decoded is no result: a machine under load may be to blame."""
        body = json.dumps(_plain(result))
        with atomic_file(self._path(digest)) as temporary:
            temporary.write_text(json.dumps({"sha256": hashlib.sha256(body.encode()).hexdigest(), "body": body}))

    def _path(self, digest: str) -> Path:
        return self._folder / digest[:2] / f"{digest}-{self._settings}.json"


def _settings(recipe: Recipe) -> str:
    """A hash of what an examination depends on besides the file."""
    data, media = recipe.data, recipe.media
    values = {
        "edition": _EDITION,
        "data": [data.clip_seconds, data.hop_seconds, data.min_loudness_db, data.scene_threshold],
        "media": [media.max_pixels, media.max_seconds],
        "sample_rate": recipe.codec.sample_rate,
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _plain(result: Examined | UnusableError) -> dict[str, Any]:
    if isinstance(result, UnusableError):
        return {"unusable": str(result)}
    prints = result.fingerprint
    return {
        "probe": asdict(result.probe),
        "clips": [[start, asdict(sound)] for start, sound in result.clips.items()],
        "sound": base64.b64encode(prints.sound.astype("<u4").tobytes()).decode(),
        "pictures": base64.b64encode(prints.pictures.astype("<u8").tobytes()).decode(),
    }


def _loaded(body: Mapping[str, Any]) -> Examined | UnusableError:
    if "unusable" in body:
        return UnusableError(body["unusable"])
    sound = np.frombuffer(base64.b64decode(body["sound"]), "<u4").reshape(-1, 2)
    pictures = np.frombuffer(base64.b64decode(body["pictures"]), "<u8")
    return Examined(
        probe=Probe.from_json(body["probe"]),
        clips={start: Sound(**figures) for start, figures in body["clips"]},
        fingerprint=Fingerprint(sound.astype(np.uint32), pictures.astype(np.uint64)),
    )


def _read_hashes(path: Path) -> dict[str, tuple[Stat, str]]:
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
    except (OSError, pa.ArrowInvalid):
        return {}
    if table.schema != _HASHES:
        return {}
    rows = zip(*(table[name].to_pylist() for name in _HASHES.names), strict=True)
    return {name: (tuple(stat), digest) for name, digest, *stat in rows}
