"""What came into a catalogue that no dataset holds yet: which videos, how long they last, and how they differ.

A new content is decoded once: what is found out lies where `ingest` will look for it. Knows nothing of schedules.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from v2meow.config import Recipe
from v2meow.data import ledger, origins
from v2meow.data.drift import Drift, against
from v2meow.data.examine import Examined, UnusableError, examine
from v2meow.data.examined import Examinations
from v2meow.data.manifest import CLIPS, RAW, REJECTED, read_rejected
from v2meow.data.reading import map_readers
from v2meow.data.stats import MEASURED
from v2meow.files import sha256
from v2meow.media import MediaError, Reader
from v2meow.workspace import committed
from v2meow.workspace.folder import VIDEO_SUFFIXES

_LAST_TRAINED = "reports/features.json"  # in git: the profiles of the videos that the last model was made from


@dataclass(frozen=True, kw_only=True)
class Arrivals:
    """Usable videos, each content once, their hours, and how their figures lie beside those of the last dataset."""

    videos: int
    hours: float
    drift: dict[str, Drift]

    @property
    def shifted(self) -> list[str]:
        """A sentence for each figure that moved by more than chance and custom explain."""
        return [one.sentence(MEASURED[name]) for name, one in self.drift.items() if one.shifted]


def waiting(workspace: Path) -> dict[str, str]:
    """Videos under data/raw that ingest has not seen, by path; what tells the content of one from that of another.

    That is its SHA-256 where the ledger knows it, else its size and time: no video is read.
    """
    table = origins.videos_of(workspace / CLIPS) if (workspace / CLIPS).is_file() else None
    paths, contents = (set(table[name].to_pylist()) if table else set() for name in ("path", "sha256"))
    refused = {file.path for file in read_rejected(workspace / REJECTED)} if (workspace / REJECTED).is_file() else set()
    digests = _digests(workspace)
    found = {}
    for file in _videos(workspace / RAW):
        path = file.relative_to(workspace).as_posix()
        digest = digests.get(path)
        if path not in refused and not (digest in contents if digest else path in paths):
            found[path] = digest or f"{file.stat().st_size} {file.stat().st_mtime_ns}"
    return found


def measure(recipe: Recipe, workspace: Path, paths: Iterable[str]) -> Arrivals:
    """What the videos at `paths` are like, beside the dataset that the last model of the workspace was made from.

    Drift is empty where there was no model yet, and below 20 videos on either side. What cannot be read, or is no use
    for training, counts as nothing.
    """
    digests, before = _digests(workspace), Examinations(recipe, workspace)

    def read(reader: Reader, path: str) -> tuple[str, Examined | None]:
        digest = digests.get(path) or sha256(workspace / path)
        return digest, _examined(recipe, workspace / path, digest, reader, before)

    results = dict(map_readers(recipe.media, read, sorted(paths)))
    found = [one for one in results.values() if one is not None]
    figures = [_figures(one) for one in found]
    columns = {name: np.array([each[name] for each in figures]) for name in (figures[0] if figures else ())}
    return Arrivals(
        videos=len(found),
        hours=sum(one.probe.seconds for one in found) / 3600,
        drift=against(committed(workspace, _LAST_TRAINED), columns),
    )


def _videos(folder: Path) -> list[Path]:
    """Video files that ingest would look at: none that is hidden."""
    files = (file for file in folder.rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES and file.is_file())
    return [file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)]


def _digests(workspace: Path) -> dict[str, str]:
    """The content of every file that came from a source, by path."""
    return {row.path: row.sha256 for row in ledger.read(workspace) if row.state == "present"}


def _examined(recipe: Recipe, file: Path, digest: str, reader: Reader, before: Examinations) -> Examined | None:
    known = before.get(digest)
    if known is None:
        try:
            known = examine(recipe, file, reader)
        except UnusableError as error:
            known = error
        except (MediaError, OSError):
            return None
        before.put(digest, known)
    return None if isinstance(known, UnusableError) else known


def _figures(video: Examined) -> dict[str, float]:
    """The same of one video as `stats.per_video` gives of the clips table."""
    clips = [asdict(sound) for sound in video.clips.values()]
    of_clips = {name: float(np.mean([clip[name] for clip in clips])) for name in clips[0]}
    return {"video_seconds": video.probe.seconds, "fps": video.probe.fps} | of_clips
