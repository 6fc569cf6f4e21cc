"""Making a study: every item one MP4 with the same picture, equally loud sound, and nothing that tells its system.

Files are muxed anew, all alike, so that neither names nor tags nor codecs give a system away.
"""

import random
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from v2meow.config import MediaConfig
from v2meow.evaluate.study.design import INVITATIONS, MEDIA, Item, Kind, Pair, Sound, Study, StudyError, write_study
from v2meow.evaluate.study.loudness import equally_loud
from v2meow.evaluate.study.sources import Picture, Source, common
from v2meow.files import atomic_file, atomic_folder, sha256
from v2meow.media import Reader, write_video
from v2meow.progress import progress

LIMITS = MediaConfig(timeout_s=120.0, memory_mib=2048, max_pixels=40_000_000, max_seconds=900.0)
RATE = 48_000  # Hz of all sound
_SIDE = 720  # pixels of the shorter side at most: studies are done on phones, too
_FPS = 30.0
_PART_S = 2.0  # of pictures in memory at once
_SLACK_S = 0.5  # that music may be shorter than its video


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the maker of a study chooses. `loudness` in LUFS; `silent` and `mismatched` are numbers of such pairs.

    `per_rater` 0: every rater sees all pairs. `invite`: so many tokens are made, and nobody else can rate.
    """

    title: str = "Which music?"
    intro: str = ""
    thanks: str = ""
    seed: int = 0
    per_rater: int = 0
    silent: int = 3
    mismatched: int = 0
    listen_s: float = 3.0
    exclude_at: float = 0.5
    max_raters: int = 1000
    loudness: float = -20.0
    invite: int = 0


def create(out: Path, sources: Sequence[Source], pictures: dict[str, Picture], wish: Wish) -> dict[str, Any]:
    """Make the study folder `out`; what was made. StudyError or MediaError with one line; `out` must not be there."""
    _check(out, sources, wish)
    shared, left_out = common(sources, pictures)
    if wish.mismatched and len(shared) < 2:
        raise StudyError("music for another video needs a second video: leave --mismatched out")
    dice = random.Random(wish.seed)  # noqa: S311
    drafts = _pairs([source.system for source in sources], list(shared), wish, dice)
    with atomic_folder(out) as temporary:
        (temporary / MEDIA).mkdir()
        files = _make_items(temporary / MEDIA, sources, shared, {side for pair in drafts for side in pair.sides}, wish)
        study = _numbered(files, drafts, [source.system for source in sources], wish, dice)
        write_study(temporary, study)
        if wish.invite:
            _invite(temporary / INVITATIONS, wish.invite)
    counts = {kind: len(study.of_kind(kind)) for kind in ("compare", "silent", "mismatched")}
    return {
        "study": str(out),
        "systems": len(sources),
        "videos": len(shared),
        "left out": f"{left_out} (not there for every system)",
        "pairs": ", ".join(f"{count} {kind}" for kind, count in counts.items()),
        "each rater sees": min(study.per_rater, counts["compare"]) + counts["silent"] + counts["mismatched"],
    }


@dataclass(frozen=True)
class _Side:
    """An item before it is made: `heard` is the video whose music is heard, None for silence."""

    system: str
    video: str
    heard: str | None

    @property
    def sound(self) -> Sound:
        return "silence" if self.heard is None else "own" if self.heard == self.video else "other video's"


@dataclass(frozen=True)
class _Draft:
    """A pair before its items are made."""

    kind: Kind
    sides: tuple[_Side, _Side]


def _check(out: Path, sources: Sequence[Source], wish: Wish) -> None:
    names = [source.system for source in sources]
    if len(names) < 2 or len(set(names)) < len(names):
        raise StudyError("a study compares at least two systems, each with a name of its own: --system NAME=DIR")
    if out.exists():
        raise StudyError(f"{out} is there already: ratings belong to one design, so give a new folder")
    if wish.per_rater < 0 or wish.silent < 0 or wish.mismatched < 0:
        raise StudyError("numbers of pairs are not negative")
    if not 0 < wish.exclude_at <= 1:
        raise StudyError("the share of failed checks that excludes a rater is above 0 and at most 1")


def _pairs(systems: list[str], videos: list[str], wish: Wish, dice: random.Random) -> list[_Draft]:
    """All pairs of systems on all videos; silent and mismatched ones spread over systems and videos."""
    own = {(system, video): _Side(system, video, video) for system in systems for video in videos}
    pairs = [
        _Draft("compare", (own[one, video], own[other, video]))
        for one, other in combinations(systems, 2)
        for video in videos
    ]
    places = [(system, video) for video in videos for system in systems]
    dice.shuffle(places)
    for number in range(wish.silent):
        system, video = places[number % len(places)]
        pairs.append(_Draft("silent", (own[system, video], _Side(system, video, None))))
    for number in range(wish.mismatched):
        system, video = places[-1 - number % len(places)]
        other = dice.choice([one for one in videos if one != video])
        pairs.append(_Draft("mismatched", (own[system, video], _Side(system, video, other))))
    dice.shuffle(pairs)
    return pairs


def _make_items(
    folder: Path, sources: Sequence[Source], pictures: dict[str, Picture], sides: set[_Side], wish: Wish
) -> dict[_Side, str]:
    """Write the file of every side; their names. Sounds on one video are equally loud."""
    files: dict[_Side, str] = {}
    with (
        Reader(LIMITS) as reader,
        TemporaryDirectory(dir=folder.parent) as scratch,
        progress("make items", len(sides)) as bar,
    ):
        for video, picture in pictures.items():
            shown, seconds = _shown(reader, picture, Path(scratch) / "picture.mp4")
            wanted = sorted((side for side in sides if side.video == video), key=str)
            for source in sources:
                _check_length(reader, source, video, seconds)
            sounds = equally_loud([_sound(reader, sources, side) for side in wanted], RATE, wish.loudness)
            for side, sound in zip(wanted, sounds, strict=True):
                file = folder / "item.mp4"
                reader.mux(shown, sound, RATE, file)
                files[side] = f"{sha256(file)}.mp4"
                file.replace(folder / files[side])
                bar.advance()
    return files


def _check_length(reader: Reader, source: Source, video: str, seconds: float) -> None:
    path = source.sounds[video]
    lasts = len(reader.waveform(path, 1000)) / 1000
    if lasts < seconds - _SLACK_S:
        raise StudyError(f"{path} lasts {lasts:.1f} s and its video {seconds:.1f} s: cut all to one length first")


def _sound(reader: Reader, sources: Sequence[Source], side: _Side) -> np.ndarray:
    if side.heard is None:
        return np.zeros(RATE, np.float32)
    source = next(source for source in sources if source.system == side.system)
    return reader.waveform(source.sounds[side.heard], RATE)


def _shown(reader: Reader, picture: Picture, scratch: Path) -> tuple[Path, float]:
    """A file with the picture alone as every browser shows it, small enough for a phone; and its length in seconds."""
    about = reader.probe(picture.path)
    seconds = about.seconds if picture.seconds is None else picture.seconds
    whole = picture.start == 0 and picture.seconds is None
    if whole and about.video_codec == "h264" and min(about.width, about.height) <= _SIDE:
        return picture.path, seconds
    fps, size = min(about.fps, _FPS), min(about.width, about.height, _SIDE)
    part = replace(picture, seconds=seconds)
    write_video(scratch, _pictures(reader, part, fps, size), fps, np.zeros(round(seconds * RATE), np.float32), RATE)
    return scratch, seconds


def _pictures(reader: Reader, picture: Picture, fps: float, size: int) -> Iterator[np.ndarray]:
    """Pictures [H, W, 3] with even sides, a few seconds in memory at a time."""
    assert picture.seconds is not None
    count, part = max(1, round(picture.seconds * fps)), max(1, round(_PART_S * fps))
    for first in range(0, count, part):
        number = min(part, count - first)
        start = picture.start + first / fps
        for one in reader.frames(picture.path, fps, size, start, number / fps, whole=True):
            yield one[: one.shape[0] // 2 * 2, : one.shape[1] // 2 * 2]


def _numbered(
    files: dict[_Side, str], drafts: list[_Draft], systems: list[str], wish: Wish, dice: random.Random
) -> Study:
    """The study with names of items and pairs that tell nothing."""
    sides = sorted(files, key=str)
    dice.shuffle(sides)
    items = [
        Item(id=f"i{number}", system=side.system, video=side.video, sound=side.sound, file=files[side])
        for number, side in enumerate(sides, 1)
    ]
    names = {side: item.id for side, item in zip(sides, items, strict=True)}
    pairs = [
        Pair(id=f"p{number}", kind=draft.kind, video=a.video, a=names[a], b=names[b])
        for number, draft in enumerate(drafts, 1)
        for a, b in [draft.sides]
    ]
    return Study(
        id=secrets.token_hex(8),
        title=wish.title,
        intro=wish.intro,
        thanks=wish.thanks,
        seed=wish.seed,
        per_rater=wish.per_rater or sum(draft.kind == "compare" for draft in drafts),
        listen_s=wish.listen_s,
        exclude_at=wish.exclude_at,
        max_raters=wish.max_raters,
        systems=tuple(systems),
        items={item.id: item for item in items},
        pairs={pair.id: pair for pair in pairs},
    )


def _invite(path: Path, count: int) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text("".join(f"{token}\n" for token in ["token", *(new_token() for _ in range(count))]))


def new_token() -> str:
    """What lets a rater rate: 16 characters that nobody guesses."""
    return secrets.token_urlsafe(12)
