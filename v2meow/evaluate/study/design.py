"""A study as it was designed: its systems, items, pairs and rules, and the folder that holds them.

All that the analysis depends on is fixed here before the first rating. Knows neither media nor raters.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from v2meow.files import read_json, write_json

STUDY = Path("study.json")
MEDIA = Path("media")
INVITATIONS = Path("invitations.csv")
RATINGS = Path("ratings.sqlite")
FORMAT = 1

Question = Literal["fit", "music"]
QUESTIONS: tuple[Question, ...] = get_args(Question)
WORDS: dict[Question, str] = {
    "fit": "Which music fits the video better?",
    "music": "Which is the better music by itself?",
}

Kind = Literal["compare", "silent", "mismatched"]
Sound = Literal["own", "silence", "other video's"]


class StudyError(ValueError):
    """A study that cannot be made, served or reported; the message is one line for people."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One video with one sound. `file` is its name in the folder of media: the SHA-256 of its bytes, and .mp4."""

    id: str
    system: str
    video: str
    sound: Sound
    file: str


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two items of one video. Of a pair that is not to compare systems, `a` has the system's own music.

    `b` is then the same picture without sound (`silent`, which tells whether a rater attends), or with the system's
    music for another video (`mismatched`, which tells whether the music follows the picture).
    """

    id: str
    kind: Kind
    video: str
    a: str
    b: str


@dataclass(frozen=True, kw_only=True)
class Study:
    """The design. A rater sees `per_rater` pairs of systems, and all others.

    Who fails at least the share `exclude_at` of the silent pairs is left out of the results. Sides can be rated once
    both were heard for `listen_s` seconds. `seed` and the rater's token decide order and sides.
    """

    id: str
    title: str
    intro: str
    thanks: str
    seed: int
    per_rater: int
    listen_s: float
    exclude_at: float
    max_raters: int
    systems: tuple[str, ...]
    items: dict[str, Item]
    pairs: dict[str, Pair]

    def of_kind(self, kind: Kind) -> list[Pair]:
        return [pair for pair in self.pairs.values() if pair.kind == kind]

    def systems_of(self, pair: Pair) -> tuple[str, str]:
        """The systems of its sides `a` and `b`."""
        return self.items[pair.a].system, self.items[pair.b].system


def write_study(folder: Path, study: Study) -> None:
    """Write study.json."""
    lists = {"items": [asdict(item) for item in study.items.values()]}
    lists |= {"pairs": [asdict(pair) for pair in study.pairs.values()]}
    write_json(folder / STUDY, {"format": FORMAT, **asdict(study), **lists})


def read_study(folder: Path) -> Study:
    """The study in a folder. StudyError where there is none, or none that this version reads."""
    try:
        values: dict[str, Any] = read_json(folder / STUDY)
    except FileNotFoundError:
        raise StudyError(f"{folder} is not a study: make one with `v2meow study create`") from None
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise StudyError(f"{folder / STUDY} is of another version: make the study anew")
    try:
        items = {row["id"]: Item(**row) for row in values.pop("items")}
        pairs = {row["id"]: Pair(**row) for row in values.pop("pairs")}
        return Study(**(values | {"systems": tuple(values["systems"]), "items": items, "pairs": pairs}))
    except (KeyError, TypeError) as error:
        raise StudyError(f"{folder / STUDY} is damaged ({error}): make the study anew") from error
