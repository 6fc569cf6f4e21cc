"""Studies and ratings that exist on paper alone."""

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from v2meow.evaluate.study.ballots import Rating
from v2meow.evaluate.study.design import Item, Pair, Study


def paper_study(systems: tuple[str, ...], videos: int, *, silent: int = 0, mismatched: int = 0, **values: Any) -> Study:
    """A study of these systems on so many videos."""
    items: dict[str, Item] = {}
    for system in systems:
        for video in range(videos):
            name = f"{system}-{video}"
            items[name] = Item(id=name, system=system, video=f"v{video}", sound="own", file=f"{name}.mp4")
    pairs = [
        Pair(id=f"{one}-{other}-{video}", kind="compare", video=f"v{video}", a=f"{one}-{video}", b=f"{other}-{video}")
        for one, other in combinations(systems, 2)
        for video in range(videos)
    ]
    for number in range(silent + mismatched):
        kind, sound = ("silent", "silence") if number < silent else ("mismatched", "other video's")
        own = items[f"{systems[0]}-{number % videos}"]
        name = f"{kind}-{number if number < silent else number - silent}"
        items[name] = Item(id=name, system=own.system, video=own.video, sound=sound, file=f"{name}.mp4")
        pairs.append(Pair(id=name, kind=kind, video=own.video, a=own.id, b=name))
    study = Study(
        id="paper",
        title="On paper",
        intro="",
        thanks="",
        seed=3,
        per_rater=10_000,
        listen_s=3.0,
        exclude_at=0.5,
        max_raters=1000,
        systems=systems,
        items=items,
        pairs={pair.id: pair for pair in pairs},
    )
    return replace(study, **values)


def rated(pair: str, towards_a: int, *, rater: str, swapped: bool = False, question: str = "fit") -> Rating:
    """A rating that prefers side `a` so much, whichever side that was shown on."""
    choice = towards_a if swapped else -towards_a
    heard = {"heard_left_s": 3.0, "heard_right_s": 4.0, "received": 1_700_000_000.0}
    key = f"{rater}-{pair}-{question}"
    return Rating(rater=rater, pair=pair, question=question, key=key, choice=choice, swapped=swapped, **heard)


def simulated(study: Study, strengths: np.ndarray, raters: int, seed: int) -> list[Rating]:
    """What raters would say whose preferences follow Davidson's model with these strengths in nats; nu = 0.6."""
    random = np.random.default_rng(seed)
    numbers = {name: number for number, name in enumerate(study.systems)}
    found = []
    for rater in range(raters):
        for pair in study.of_kind("compare"):
            a, b = (strengths[numbers[name]] for name in study.systems_of(pair))
            weights = np.exp([a, np.log(0.6) + (a + b) / 2, b])
            outcome = int(random.choice(3, p=weights / weights.sum()))
            swapped = bool(random.integers(2))
            towards = (1 - outcome) * int(random.integers(1, 3))
            found.append(rated(pair.id, towards, rater=f"r{rater}", swapped=swapped))
    return found
