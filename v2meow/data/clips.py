"""Ingest: the videos of data/raw become the table of clips and the list of rejected files.

One bad file never stops the run: it is rejected with a reason. What was found out about a content before is not found
out again. Knows how what is known of each video comes together; what that is, is the business of `examine`, `sidecar`,
`groups` and `ledger`, and demands on the whole catalogue are that of `checks`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from v2meow.config import Recipe
from v2meow.data import groups, ledger
from v2meow.data.examine import Examined, UnusableError, examine
from v2meow.data.examined import Examinations, Hashes
from v2meow.data.manifest import (
    CLIPS,
    GROUPS,
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
from v2meow.data.sidecar import TABLE, Sidecar, Sidecars, allowed, is_utf8
from v2meow.data.similar import connected, near_copies
from v2meow.media import MediaError, Reader
from v2meow.progress import progress


@dataclass(frozen=True, kw_only=True)
class _Video:
    """A usable video: its content, what that holds, and what people wrote about it."""

    path: str
    sha256: str
    examined: Examined
    sidecar: Sidecar

    @property
    def video_id(self) -> str:
        return self.sha256[:16]


def run(recipe: Recipe, workspace: Path) -> dict[str, Any]:
    """Write data/clips/clips.parquet, data/groups.parquet and data/rejected.csv from the files of data/raw.

    Raises DataError when no video is usable, or only one; rejected.csv is written first.
    """
    videos, rejected = _keep_first_of_twins(_read_all(recipe, workspace))
    write_rejected(workspace / REJECTED, rejected)
    if not rejected and not videos:
        raise DataError(f"no files in {workspace / RAW}: put videos there first")
    if not videos:
        raise DataError(f"no usable video in {workspace / RAW}: {len(rejected)} files rejected, see {REJECTED}")
    known = groups.read(workspace / GROUPS)
    grouping = groups.assign(known, _together(videos))
    group_of = {video.video_id: grouping.group_of[video.video_id] for video in videos}
    splits = assign_splits(group_of.values(), recipe.data.holdout)
    groups.write(workspace / GROUPS, grouping.group_of)
    sources = ledger.sources(workspace)
    clips = [
        clip
        for video in videos
        for clip in _clips(recipe, video, group_of[video.video_id], splits, sources.get(video.sha256, ""))
    ]
    write_clips(workspace / CLIPS, clips)
    return {
        "videos": len(videos),
        "clips": len(clips),
        "seconds": round(sum(video.examined.probe.seconds for video in videos), 3),
        "rejected": len(rejected),
        "groups": len(set(group_of.values())),
        "groups_merged": len(grouping.merged),
    }


def _read_all(recipe: Recipe, workspace: Path) -> list[_Video | RejectedFile]:
    """What became of each file, in the order of their paths however the threads were scheduled."""
    files, results, rejected = _candidates(workspace / RAW), [], 0
    desk = _Desk(recipe, workspace)
    try:
        with progress("ingest", len(files)) as bar:
            for result in map_readers(recipe.media, desk.read, files):
                results.append(result)
                rejected += isinstance(result, RejectedFile)
                bar.advance(note=f"{rejected} rejected")
    finally:
        desk.hashes.save()
    for file in desk.sidecars.without_video(files):
        results.append(RejectedFile(file.relative_to(workspace).as_posix(), f"{TABLE} names it, but it is not here"))
    return results


def _candidates(folder: Path) -> list[Path]:
    """Every file below `folder` but sidecars and hidden ones. Broken links count: they deserve a reason."""
    return sorted(
        path
        for path in folder.rglob("*")
        if (path.is_file() or (path.is_symlink() and not path.exists()))
        and path.suffix != ".json"
        and path.name != TABLE
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


class _Desk:
    """What a file is judged by, shared by the threads that read files."""

    def __init__(self, recipe: Recipe, workspace: Path) -> None:
        self.hashes, self.sidecars = Hashes(workspace), Sidecars(workspace / RAW)
        self._recipe, self._workspace = recipe, workspace
        self._before = Examinations(recipe, workspace)
        self._forgotten = ledger.forgotten(workspace)

    def read(self, reader: Reader, file: Path) -> _Video | RejectedFile:
        path = file.relative_to(self._workspace).as_posix()
        try:
            return self._video(reader, file, path)
        except (MediaError, UnusableError) as error:
            return RejectedFile(path, str(error).removeprefix(f"{file}: "))

    def _video(self, reader: Reader, file: Path, path: str) -> _Video:
        """Everything the table says of one video. Raises UnusableError or MediaError with the reason."""
        if not is_utf8(path):
            raise UnusableError("the file name is not UTF-8")
        sidecar = self.sidecars.of(file)
        licences = self._recipe.data.licences
        if not allowed(sidecar.licence, licences):
            what = f"the licence {sidecar.licence!r} is" if sidecar.licence else "no licence is named, which is"
            raise UnusableError(f"{what} none of data.licences: {', '.join(licences)}")
        try:
            digest = self.hashes(file)
        except OSError as error:
            raise UnusableError(f"cannot be read: {error.strerror}") from error
        if digest in self._forgotten:
            raise UnusableError("this content was forgotten on request, for good")
        return _Video(path=path, sha256=digest, examined=self._examined(reader, file, digest), sidecar=sidecar)

    def _examined(self, reader: Reader, file: Path, digest: str) -> Examined:
        before = self._before.get(digest)
        if isinstance(before, UnusableError):
            raise before
        if before is not None:
            return before
        try:
            result = examine(self._recipe, file, reader)
        except UnusableError as error:
            self._before.put(digest, error)
            raise
        self._before.put(digest, result)
        return result


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


def _together(videos: Sequence[_Video]) -> list[list[str]]:
    """Ids of videos that belong together: near-copies, and those that name the same group."""

    def pairs() -> Iterator[tuple[int, int]]:
        yield from near_copies([video.examined.fingerprint for video in videos])
        first: dict[str, int] = {}
        for index, video in enumerate(videos):
            if video.sidecar.group:
                yield first.setdefault(video.sidecar.group, index), index

    return groups.members(connected(len(videos), pairs()), [video.video_id for video in videos])


def _clips(recipe: Recipe, video: _Video, group: str, splits: dict[str, Split], source: str) -> Iterator[Clip]:
    probe, sidecar = video.examined.probe, video.sidecar
    assert probe.audio is not None, video.path
    for index, (start, sound) in enumerate(video.examined.clips.items()):
        yield Clip(
            clip_id=f"{video.video_id}-{index:04d}",
            video_id=video.video_id,
            path=video.path,
            sha256=video.sha256,
            start=start,
            seconds=recipe.data.clip_seconds,
            video_seconds=probe.seconds,
            fps=probe.fps,
            width=probe.width,
            height=probe.height,
            sample_rate=probe.audio.sample_rate,
            channels=probe.audio.channels,
            split=splits[group],
            caption=sidecar.caption,
            attributes=sidecar.attributes,
            group=group,
            source=source,
            title=sidecar.title,
            genre=sidecar.genre,
            licence=sidecar.licence,
            consent=sidecar.consent,
            variable_fps=probe.variable_fps,
            **asdict(sound),
        )
