"""Where the music of a study comes from: folders of scored videos, or what workspaces were evaluated on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from v2meow.evaluate.study.design import StudyError
from v2meow.files import read_json
from v2meow.workspace.folder import VIDEO_SUFFIXES

REAL = "real"  # the system that the soundtracks of a workspace's own videos are
_VIDEOS = (".mp4", *(suffix for suffix in VIDEO_SUFFIXES if suffix != ".mp4"))
_SOUNDS = (".wav", ".flac", ".mp3", ".m4a", ".ogg")
_SAMPLES = Path("reports/samples")


@dataclass(frozen=True)
class Picture:
    """What is seen: a part of a file, in seconds, or all of it."""

    path: Path
    start: float = 0.0
    seconds: float | None = None


@dataclass(frozen=True)
class Source:
    """A system's music by the name of the video, and the pictures that came with it."""

    system: str
    sounds: dict[str, Path]
    pictures: dict[str, Picture]


def read_source(system: str, folder: Path) -> Source:
    """The music in a folder: files that are named as the videos are; of a workspace, its generated samples."""
    if not folder.is_dir():
        raise StudyError(f"{folder}: no such folder (the music of {system})")
    if (folder / _SAMPLES / "samples.json").is_file():
        return _samples(system, folder, "generated")
    sounds = {path.stem: path for path in _files(folder, _VIDEOS + _SOUNDS)}  # the video, where there are both
    if not sounds:
        raise StudyError(f"{folder} holds no music of {system}: it needs files such as NAME.mp4 or NAME.wav")
    return Source(system, sounds, read_pictures(folder))


def read_real(folder: Path) -> Source:
    """The real soundtracks of the samples of a workspace, after its codec."""
    if not (folder / _SAMPLES / "samples.json").is_file():
        raise StudyError(f"{folder} has no real music in {_SAMPLES}: give a workspace that was evaluated")
    return _samples(REAL, folder, "real")


def read_pictures(folder: Path) -> dict[str, Picture]:
    """The videos of a folder by their names without suffix."""
    return {path.stem: Picture(path) for path in _files(folder, _VIDEOS)}


def common(sources: Sequence[Source], pictures: dict[str, Picture]) -> tuple[dict[str, Picture], int]:
    """The videos that all systems have music for, sorted, with their pictures; and how many other names there are.

    Pictures that are given stand over those that came with the music.
    """
    names = [set(source.sounds) for source in sources]
    shared = sorted(set.intersection(*names))
    for source in reversed(sources):
        pictures = source.pictures | pictures
    unseen = [name for name in shared if name not in pictures]
    if unseen:
        raise StudyError(f"there is only sound for {unseen[0]} ({len(unseen)} such): give the videos with --videos DIR")
    if not shared:
        raise StudyError("no video has music of every system: its files must have the same name in all folders")
    return {name: pictures[name] for name in shared}, len(set.union(*names)) - len(shared)


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files by suffix, the first of `suffixes` last: it stands over others of the same name."""
    found = (path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith("."))
    ours = [path for path in found if path.suffix.lower() in suffixes]
    return sorted(ours, key=lambda path: -suffixes.index(path.suffix.lower()))


def _samples(system: str, workspace: Path, kind: str) -> Source:
    from v2meow.data.manifest import read_clips  # here: it needs the extra `pipeline`, folders do not

    listed = read_json(workspace / _SAMPLES / "samples.json")
    clips = {clip.clip_id: clip for clip in read_clips(workspace)}
    sounds = {row["clip_id"]: workspace / _SAMPLES / f"{row['number']}-{kind}.wav" for row in listed}
    pictures = {
        name: Picture(workspace / clips[name].path, clips[name].start, clips[name].seconds)
        for name in sounds
        if name in clips
    }
    return Source(system, sounds, pictures)
