"""The results of a study for people and programs: a text, a page that opens offline, and the ratings as CSV.

Arranges what `tally` found; computes nothing itself.
"""

import csv
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from v2meow.evaluate.study.ballots import Rating
from v2meow.evaluate.study.design import Study
from v2meow.evaluate.study.tally import answers_of, attention
from v2meow.files import atomic_file

REPORT = Path("report")
_COLUMNS = (
    *("rater", "excluded", "pair", "kind", "video", "question", "system_a", "system_b", "towards_a", "left"),
    *("heard_a_s", "heard_b_s", "received"),
)


def write_report(folder: Path, study: Study, ratings: Sequence[Rating], found: dict[str, Any]) -> list[Path]:
    """Write report.html and ratings.csv into `folder`; their paths."""
    paths = [folder / "report.html", folder / "ratings.csv"]
    with atomic_file(paths[0]) as temporary:
        temporary.write_text(page(found), encoding="utf-8")
    with atomic_file(paths[1]) as temporary:
        write_csv(temporary, study, ratings)
    return paths


def write_csv(path: Path, study: Study, ratings: Sequence[Rating]) -> None:
    """One row a rating, those of excluded raters among them. A rater's name there lets nobody rate."""
    answers = answers_of(study, ratings)
    excluded = {one.rater for one in attention(study, answers) if one.excluded}
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(_COLUMNS)
        for answer in answers:
            rating, pair = answer.rating, answer.pair
            heard = [rating.heard_left_s, rating.heard_right_s]
            when = datetime.fromtimestamp(rating.received or 0, UTC).isoformat(timespec="seconds")
            table.writerow(
                [
                    short_name(rating.rater),
                    int(rating.rater in excluded),
                    *(pair.id, pair.kind, _plain(pair.video), rating.question),
                    *map(_plain, study.systems_of(pair)),
                    answer.towards_a,
                    "b" if rating.swapped else "a",
                    *(round(seconds, 1) for seconds in (heard[::-1] if rating.swapped else heard)),
                    when,
                ]
            )


def short_name(rater: str) -> str:
    """A name for a rater in what is shown."""
    return hashlib.sha256(rater.encode()).hexdigest()[:8]


def text(found: dict[str, Any]) -> str:
    """The results as lines for a terminal."""
    lines = [found["title"], _about(found)]
    lines += [
        f"  rater {short_name(one['rater'])} left out: failed {one['failed']} of {one['checks']} silent pairs"
        for one in found["raters"]
        if one["excluded"]
    ]
    for question in found["questions"].values():
        lines += ["", question["words"], *_question(question)]
    return "\n".join(lines)


def page(found: dict[str, Any]) -> str:
    """The results as one HTML file that loads nothing."""
    pages = Environment(
        loader=PackageLoader("v2meow.evaluate.study", "."),
        autoescape=True,  # names of systems and videos come from anyone
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"percent": _percent, "score": _score, "short": short_name}
    return pages.get_template("report.html.j2").render(found | {"about": _about(found)})


def _about(found: dict[str, Any]) -> str:
    kept = len(found["raters"]) - found["excluded"]
    rule = f"{found['excluded']} left out, who failed at least {found['exclude_at']:.0%} of their silent pairs"
    unchecked = sum(one["checks"] == 0 for one in found["raters"])
    also = f"; {unchecked} saw no silent pair yet" if unchecked else ""
    return f"{found['counted']} ratings of pairs of systems by {kept} raters ({rule}{also})"


def _question(question: dict[str, Any]) -> list[str]:
    if not question["ratings"]:
        return ["  not rated yet"]
    width = max(len(row["system"]) for row in question["systems"])
    lines = [f"  {'':{width}}  {'win rate':>22}  {'score':>24}  compared"]
    for row in question["systems"]:
        rate, score = _interval(row["win_rate"], _percent), _interval(row["score"], _score)
        lines.append(f"  {row['system']:{width}}  {rate:>22}  {score:>24}  {row['compared']:>8}")
    for row in question["pairs"]:
        strong_a, weak_a, ties, weak_b, strong_b = row["answers"].values()
        answers = f"{strong_a} + {weak_a} : {ties} : {weak_b} + {strong_b}"
        lines.append(f"  {row['a']} against {row['b']}: {answers}, wins {_interval(row['win_rate'], _percent)}")
    agreement = question["agreement"]
    kappa = "not defined" if agreement["kappa"] is None else f"{agreement['kappa']:.2f}"
    ties, rated = question["ties"], agreement["subjects"]
    lines.append(f"  neither: {ties:.0%}; Fleiss' kappa {kappa} over {rated} pairs rated at least twice")
    if not question["bounded"]:
        lines.append("  some system never lost or never won: its score is a guess, for nothing bounds it")
    if question["control"]:
        own = _interval(question["control"]["own_preferred"], _percent)
        lines.append(f"  music for the video itself preferred to music for another one: {own}")
    return lines


def _interval(values: dict[str, float], shown: Any) -> str:
    return f"{shown(values['value'])} ({shown(values['low'])} … {shown(values['high'])})"


def _percent(share: float) -> str:
    return f"{share:.0%}"


def _score(nats: float) -> str:
    return f"{nats:+.2f}"


def _plain(name: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    return f"'{name}" if name[:1] in ("=", "+", "-", "@", "\t", "\r") else name
