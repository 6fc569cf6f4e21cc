"""Ingest: the videos of data/raw become the table of clips and the list of rejected files.

One bad file never stops the run: it is rejected with a reason. Knows what makes a video usable for
training; containers are the business of `v2meow.media`, and demands on the whole catalogue of `checks`.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from v2meow.config import Recipe
from v2meow.data.manifest import (
    CLIP_SLACK_S,
    CLIPS,
    RAW,
    REJECTED,
    Clip,
    DataError,
    RejectedFile,
    Split,
    assign_splits,
    write_clips,
    write_rejected,
)
from v2meow.data.reading import map_readers
from v2meow.files import sha256
from v2meow.media import MediaError, Probe, Reader
from v2meow.progress import progress

_BLOCK_CLIPS = 32  # read at once when measuring loudness: bounds memory for videos of hours
_SILENCE_DB = -91.0  # floor of loudness: what FFmpeg's volumedetect calls digital silence


class _UnusableError(Exception):
    """Why one file is rejected; its text is for people."""


@dataclass(frozen=True, kw_only=True)
class _Video:
    """A usable video: what its clips have in common, and the loudness (dBFS) of the clip at each start."""

    path: str
    sha256: str
    probe: Probe
    caption: str
    attributes: dict[str, Any]
    loudness_db: dict[float, float]

    @property
    def video_id(self) -> str:
        return self.sha256[:16]


def run(recipe: Recipe, workspace: Path) -> dict[str, Any]:
    """Write data/clips/clips.parquet and data/rejected.csv from the files of data/raw.

    Raises DataError when no video is usable, or only one; rejected.csv is written first.
    """
    videos, rejected = _keep_first_of_twins(_read_all(recipe, workspace))
    write_rejected(workspace / REJECTED, rejected)
    if not rejected and not videos:
        raise DataError(f"no files in {workspace / RAW}: put videos there first")
    if not videos:
        raise DataError(f"no usable video in {workspace / RAW}: {len(rejected)} files rejected, see {REJECTED}")
    splits = assign_splits((video.video_id for video in videos), recipe.data.holdout)
    clips = [
        _clip(recipe, video, index, start, splits[video.video_id])
        for video in videos
        for index, start in enumerate(video.loudness_db)
    ]
    write_clips(workspace / CLIPS, clips)
    return {
        "videos": len(videos),
        "clips": len(clips),
        "seconds": round(sum(video.probe.seconds for video in videos), 3),
        "rejected": len(rejected),
    }


def _read_all(recipe: Recipe, workspace: Path) -> list[_Video | RejectedFile]:
    """What became of each file, in the order of their paths however the threads were scheduled."""
    files, results, rejected = _candidates(workspace / RAW), [], 0

    def read(reader: Reader, file: Path) -> _Video | RejectedFile:
        return _read(recipe, workspace, file, reader)

    with progress("ingest", len(files)) as bar:
        for result in map_readers(recipe.media, read, files):
            results.append(result)
            rejected += isinstance(result, RejectedFile)
            bar.advance(note=f"{rejected} rejected")
    return results


def _candidates(folder: Path) -> list[Path]:
    """Every file below `folder` but sidecars and hidden ones. Broken links count: they deserve a reason."""
    return sorted(
        path
        for path in folder.rglob("*")
        if (path.is_file() or (path.is_symlink() and not path.exists()))
        and path.suffix != ".json"
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _read(recipe: Recipe, workspace: Path, file: Path, reader: Reader) -> _Video | RejectedFile:
    path = file.relative_to(workspace).as_posix()
    try:
        return _examine(recipe, path, file, reader)
    except (MediaError, _UnusableError) as error:
        return RejectedFile(path, str(error).removeprefix(f"{file}: "))


def _examine(recipe: Recipe, path: str, file: Path, reader: Reader) -> _Video:
    """Everything the table says of one video. Raises _UnusableError or MediaError with the reason."""
    if not _is_utf8(path):
        raise _UnusableError("the file name is not UTF-8")
    try:
        caption, attributes = _read_sidecar(file.with_suffix(".json"))
        digest = sha256(file)
    except OSError as error:
        raise _UnusableError(f"cannot be read: {error.strerror}") from error
    probe = reader.probe(file)
    loudness_db = _loudness_of_clips(recipe, file, reader, _starts(recipe, probe))
    return _Video(
        path=path, sha256=digest, probe=probe, caption=caption, attributes=attributes, loudness_db=loudness_db
    )


def _read_sidecar(path: Path) -> tuple[str, dict[str, Any]]:
    """Caption and attributes beside a video; empty ones when there is no sidecar."""
    if not path.exists():
        return "", {}
    try:
        sidecar = json.loads(path.read_bytes())
        text = json.dumps(sidecar, ensure_ascii=False, allow_nan=False)  # NaN is not JSON, though json.loads takes it
    except (ValueError, RecursionError) as error:
        raise _UnusableError(f"sidecar {path.name} is not valid JSON: {error}") from error
    if not _is_utf8(text):  # half of a surrogate pair, which JSON can spell and no table can hold
        raise _UnusableError(f"sidecar {path.name} is not Unicode text")
    if not isinstance(sidecar, dict) or not sidecar.keys() <= {"caption", "attributes"}:
        raise _UnusableError(f"sidecar {path.name} must be a mapping with no keys but caption and attributes")
    caption, attributes = sidecar.get("caption", ""), sidecar.get("attributes", {})
    if not isinstance(caption, str) or not isinstance(attributes, dict):
        raise _UnusableError(f"sidecar {path.name}: caption must be text and attributes a mapping")
    return caption, attributes


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _starts(recipe: Recipe, probe: Probe) -> list[float]:
    """Where clips start, in seconds, inside the common part of picture and sound."""
    length, hop = recipe.data.clip_seconds, recipe.data.hop_seconds
    if probe.audio is None:
        raise _UnusableError("no soundtrack: a training catalogue needs music")
    for what, seconds in (("video", probe.seconds), ("soundtrack", probe.audio.seconds)):
        if seconds + CLIP_SLACK_S < length:
            raise _UnusableError(f"{what} of {seconds:.2f} s is shorter than a clip of {length:g} s")
    common = min(probe.seconds, probe.audio.seconds) + CLIP_SLACK_S
    return [index * hop for index in range(math.floor((common - length) / hop) + 1)]


def _loudness_of_clips(recipe: Recipe, file: Path, reader: Reader, starts: list[float]) -> dict[float, float]:
    """dBFS RMS of the mono downmix of the clip at each start; a video that is silent as a whole is unusable."""
    powers = {}
    for first in range(0, len(starts), _BLOCK_CLIPS):
        powers |= _powers(recipe, file, reader, starts[first : first + _BLOCK_CLIPS])
    overall = _decibels(float(np.mean(list(powers.values()))))
    if not math.isfinite(overall):
        raise _UnusableError("soundtrack holds samples that are not numbers")
    if overall < recipe.data.min_loudness_db:
        raise _UnusableError(f"soundtrack is silent when mixed to mono ({overall:.1f} dBFS)")
    return {start: _decibels(power) for start, power in powers.items()}


def _powers(recipe: Recipe, file: Path, reader: Reader, starts: list[float]) -> dict[float, float]:
    """Mean square of the clip at each start, from one reading of the soundtrack from the first to the last."""
    rate, length = recipe.codec.sample_rate, recipe.data.clip_seconds
    waveform = reader.waveform(file, rate, starts[0], starts[-1] - starts[0] + length)
    powers = {}
    for start in starts:
        first = round((start - starts[0]) * rate)
        powers[start] = float(np.mean(np.square(waveform[first : first + round(length * rate)], dtype=np.float64)))
    return powers


def _decibels(power: float) -> float:
    return _SILENCE_DB if power == 0 else max(10 * math.log10(power), _SILENCE_DB)


def _keep_first_of_twins(results: list[_Video | RejectedFile]) -> tuple[list[_Video], list[RejectedFile]]:
    """Videos and rejected files apart; of usable videos with equal content only the first is kept."""
    videos: dict[str, _Video] = {}
    rejected = []
    for result in results:
        if isinstance(result, RejectedFile):
            rejected.append(result)
        elif result.sha256 in videos:
            rejected.append(RejectedFile(result.path, f"same content as {videos[result.sha256].path}"))
        else:
            videos[result.sha256] = result
    return list(videos.values()), rejected


def _clip(recipe: Recipe, video: _Video, index: int, start: float, split: Split) -> Clip:
    audio = video.probe.audio
    assert audio is not None, video.path
    return Clip(
        clip_id=f"{video.video_id}-{index:04d}",
        video_id=video.video_id,
        path=video.path,
        sha256=video.sha256,
        start=start,
        seconds=recipe.data.clip_seconds,
        video_seconds=video.probe.seconds,
        fps=video.probe.fps,
        width=video.probe.width,
        height=video.probe.height,
        sample_rate=audio.sample_rate,
        channels=audio.channels,
        loudness_db=video.loudness_db[start],
        split=split,
        caption=video.caption,
        attributes=video.attributes,
    )
