"""From ratings to what they say of the systems: who is left out, who wins, how sure that is. No files, no pages."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from v2meow.evaluate.study.ballots import Rating
from v2meow.evaluate.study.design import QUESTIONS, WORDS, Pair, Question, Study
from v2meow.evaluate.study.kappa import fleiss_kappa
from v2meow.evaluate.study.preference import (
    Ratings,
    bounded,
    counts,
    davidson,
    pair_rates,
    percentiles,
    resampled,
    share_interval,
    win_rates,
)

RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A rating where it counts: `towards_a` is -2 … 2, above 0 where side `a` of the pair is preferred."""

    rating: Rating
    pair: Pair
    towards_a: int

    @property
    def outcome(self) -> int:
        """0: `a` preferred, 1: neither, 2: `b`."""
        return 1 - int(np.sign(self.towards_a))


@dataclass(frozen=True, kw_only=True)
class Attention:
    """How a rater did on the silent pairs; a pair is failed unless the side with music is preferred in all answers."""

    rater: str
    ratings: int
    checks: int
    failed: int
    excluded: bool


def answers_of(study: Study, ratings: Sequence[Rating]) -> list[Answer]:
    """The ratings with their pairs."""
    return [
        Answer(rating=one, pair=study.pairs[one.pair], towards_a=one.choice if one.swapped else -one.choice)
        for one in ratings
        if one.pair in study.pairs
    ]


def attention(study: Study, answers: Sequence[Answer]) -> list[Attention]:
    """Every rater, by when they began."""
    by_rater: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_rater[answer.rating.rater].append(answer)
    found = []
    for rater, theirs in by_rater.items():
        passed: dict[str, bool] = {}
        for answer in theirs:
            if answer.pair.kind == "silent":
                passed[answer.pair.id] = passed.get(answer.pair.id, True) and answer.outcome == 0
        failed = sum(not well for well in passed.values())
        excluded = bool(passed) and failed >= study.exclude_at * len(passed)
        found.append(Attention(rater=rater, ratings=len(theirs), checks=len(passed), failed=failed, excluded=excluded))
    return found


def results(study: Study, ratings: Sequence[Rating]) -> dict[str, Any]:
    """Everything that is reported of a study, as plain values."""
    answers = answers_of(study, ratings)
    raters = attention(study, answers)
    excluded = {one.rater for one in raters if one.excluded}
    kept = [answer for answer in answers if answer.rating.rater not in excluded]
    by_question: dict[Question, list[Answer]] = {
        name: [answer for answer in kept if answer.rating.question == name] for name in QUESTIONS
    }
    return {
        "study": study.id,
        "title": study.title,
        "systems": list(study.systems),
        "raters": [asdict(one) for one in raters],
        "excluded": len(excluded),
        "exclude_at": study.exclude_at,
        "ratings": len(answers),
        "counted": len([answer for answer in kept if answer.pair.kind == "compare"]),
        "questions": {name: _question(study, given, name) for name, given in by_question.items()},
    }


def _question(study: Study, answers: list[Answer], name: Question) -> dict[str, Any]:
    compared = [answer for answer in answers if answer.pair.kind == "compare"]
    found: dict[str, Any] = {"words": WORDS[name], "ratings": len(compared), "control": _control(study, answers)}
    if not compared:
        return found | {"systems": [], "pairs": [], "ties": None, "bounded": False, "agreement": None}
    systems = len(study.systems)
    ratings = _arrays(study, compared)
    outcomes = counts(ratings, systems)
    drawn = resampled(ratings, systems, RESAMPLES, study.seed)
    return found | {
        "systems": _systems(study, outcomes, drawn),
        "pairs": _pairs(study, compared, outcomes, drawn),
        "ties": float(outcomes[:, 1].sum() / outcomes.sum()),
        "bounded": bounded(outcomes, systems),
        "agreement": asdict(fleiss_kappa(_categories(compared))),
    }


def _systems(study: Study, outcomes: np.ndarray, drawn: np.ndarray) -> list[dict[str, Any]]:
    """Score and win rate of every system that was compared, the best first."""
    count = len(study.systems)
    scores, _ = davidson(outcomes, count)
    drawn_scores, _ = davidson(drawn, count)
    rates, drawn_rates = win_rates(outcomes, count), win_rates(drawn, count)
    first, second = np.triu_indices(count, 1)
    rows = []
    for number in np.argsort(-scores):
        compared = float(outcomes[(first == number) | (second == number)].sum())
        if compared == 0:
            continue
        rate = share_interval(float(rates[number]), compared, drawn_rates[:, number])
        rows.append(
            {
                "system": study.systems[number],
                "compared": int(compared),
                "score": asdict(percentiles(float(scores[number]), drawn_scores[:, number])),
                "win_rate": asdict(rate),
            }
        )
    return rows


def _pairs(study: Study, compared: list[Answer], outcomes: np.ndarray, drawn: np.ndarray) -> list[dict[str, Any]]:
    """What every two systems that were compared came to."""
    rates, drawn_rates = pair_rates(outcomes), pair_rates(drawn)
    first, second = np.triu_indices(len(study.systems), 1)
    strengths: dict[tuple[str, str], list[int]] = defaultdict(list)
    for answer in compared:
        strengths[study.systems_of(answer.pair)].append(answer.towards_a)
    rows = []
    for pair, (i, j) in enumerate(zip(first, second, strict=True)):
        if outcomes[pair].sum() == 0:
            continue
        names = study.systems[i], study.systems[j]
        spread = Counter(strengths[names])
        rows.append(
            {
                "a": names[0],
                "b": names[1],
                "answers": {str(choice): spread[choice] for choice in (2, 1, 0, -1, -2)},
                "win_rate": asdict(
                    share_interval(float(rates[pair]), float(outcomes[pair].sum()), drawn_rates[:, pair])
                ),
            }
        )
    return rows


def _control(study: Study, answers: list[Answer]) -> dict[str, Any] | None:
    """How often a system's music for the video itself was preferred to its music for another one."""
    found = [answer for answer in answers if answer.pair.kind == "mismatched"]
    if not found:
        return None
    ratings = _arrays(study, found)
    ratings = replace(ratings, pair=np.zeros_like(ratings.pair))  # whatever the system
    outcomes, drawn = counts(ratings, 2), resampled(ratings, 2, RESAMPLES, study.seed)
    share = share_interval(float(pair_rates(outcomes)[0]), float(outcomes.sum()), pair_rates(drawn)[:, 0])
    return {"ratings": len(found), "own_preferred": asdict(share)}


def _arrays(study: Study, answers: list[Answer]) -> Ratings:
    numbers = {name: number for number, name in enumerate(study.systems)}
    table = np.zeros((len(numbers), len(numbers)), int)
    table[np.triu_indices(len(numbers), 1)] = np.arange(len(numbers) * (len(numbers) - 1) // 2)
    places = [tuple(numbers[name] for name in study.systems_of(answer.pair)) for answer in answers]
    return Ratings(
        pair=np.array([table[place] for place in places]),
        outcome=np.array([answer.outcome for answer in answers]),
        rater=np.unique([answer.rating.rater for answer in answers], return_inverse=True)[1],
        video=np.unique([answer.pair.video for answer in answers], return_inverse=True)[1],
    )


def _categories(answers: list[Answer]) -> np.ndarray:
    """How many raters preferred `a`, neither and `b` of each pair: [N, 3]."""
    pairs, rows = np.unique([answer.pair.id for answer in answers], return_inverse=True)
    cells = rows * 3 + np.array([answer.outcome for answer in answers])
    return np.bincount(cells, minlength=3 * len(pairs)).reshape(len(pairs), 3)
