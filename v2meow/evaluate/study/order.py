"""What one rater sees: which pairs, in which order, on which sides. A pure function of the study and the rater.

So a rater who comes back, on whatever machine, goes on with the same study, and nothing has to be stored for it.
"""

import hashlib
import random
from collections import defaultdict
from dataclasses import dataclass
from itertools import zip_longest

from v2meow.evaluate.study.design import Pair, Study


@dataclass(frozen=True)
class Shown:
    """A pair as a rater sees it: `a` is on the left, or on the right where it is swapped."""

    pair: Pair
    swapped: bool

    @property
    def left(self) -> str:
        return self.pair.b if self.swapped else self.pair.a

    @property
    def right(self) -> str:
        return self.pair.a if self.swapped else self.pair.b


def rater_of(study: Study, token: str) -> str:
    """By what name ratings are kept. The token lets its owner rate, so it is stored nowhere."""
    return hashlib.sha256(f"{study.id}:{token}".encode()).hexdigest()[:32]


def plan(study: Study, rater: str) -> list[Shown]:
    """The pairs that a rater sees, in order.

    The pairs of systems come in blocks, each of which has every two systems once, so that whoever leaves early has
    rated all systems about alike. The others are spread evenly among them, and sides are swapped in half of each.
    """
    dice = random.Random(f"{study.seed}:{rater}")  # noqa: S311
    compared = _in_blocks(study, dice)[: study.per_rater]
    others = study.of_kind("silent") + study.of_kind("mismatched")
    dice.shuffle(others)
    ordered = _spread(compared, others, dice)
    sides = _sides(compared, dice) | _sides(study.of_kind("silent"), dice) | _sides(study.of_kind("mismatched"), dice)
    return [Shown(pair, sides[pair.id]) for pair in ordered]


def _in_blocks(study: Study, dice: random.Random) -> list[Pair]:
    by_systems: dict[tuple[str, str], list[Pair]] = defaultdict(list)
    for pair in study.of_kind("compare"):
        by_systems[study.systems_of(pair)].append(pair)
    for pairs in by_systems.values():
        dice.shuffle(pairs)
    ordered: list[Pair] = []
    for row in zip_longest(*by_systems.values()):
        block = [pair for pair in row if pair is not None]
        dice.shuffle(block)
        ordered += block
    return ordered


def _spread(pairs: list[Pair], others: list[Pair], dice: random.Random) -> list[Pair]:
    """`others` among `pairs`: one somewhere in each of as many equal parts."""
    ordered = list(pairs)
    for number in reversed(range(len(others))):
        first, last = (len(pairs) * part // len(others) for part in (number, number + 1))
        ordered.insert(dice.randint(first, last), others[number])
    return ordered


def _sides(pairs: list[Pair], dice: random.Random) -> dict[str, bool]:
    swapped = [number % 2 == 0 for number in range(len(pairs))]
    dice.shuffle(swapped)
    if len(pairs) % 2:  # the odd one out is swapped for every other rater
        swapped = [not one for one in swapped] if dice.random() < 0.5 else swapped
    return {pair.id: one for pair, one in zip(pairs, swapped, strict=True)}
