"""How much of a catalogue no dataset holds yet: the length of the videos that are in neither of ingest's tables."""

from pathlib import Path

from v2meow.config import MediaConfig
from v2meow.data.manifest import CLIPS, RAW, REJECTED, read_clips, read_rejected
from v2meow.media import MediaError, Reader
from v2meow.workspace.folder import VIDEO_SUFFIXES


def new_hours(workspace: Path, limits: MediaConfig) -> float:
    """Hours of the videos under data/raw that ingest has not seen, by path; what cannot be read counts as none."""
    known = {clip.path for clip in read_clips(workspace)} if (workspace / CLIPS).is_file() else set()
    if (workspace / REJECTED).is_file():
        known |= {file.path for file in read_rejected(workspace / REJECTED)}
    files = (file for file in (workspace / RAW).rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES)
    new = [file for file in files if str(file.relative_to(workspace)) not in known]
    if not new:
        return 0.0
    with Reader(limits) as reader:
        return sum(_seconds(reader, file) for file in new) / 3600


def _seconds(reader: Reader, file: Path) -> float:
    try:
        return reader.probe(file).seconds
    except MediaError:
        return 0.0
