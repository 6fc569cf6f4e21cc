"""Does the music go with the picture? Measures for any catalogue, each beside its controls and its ceiling.

    retrieval     cosine of music and picture to a judge that learnt for this alone, and how often it finds the one for
                  the other (`recall`); see `retrieval`
    beats         F-measure of the music's onsets and the picture's cuts and movements, within 0.1 s
    onsets        correlation over time of how much comes in in the music and how much changes in the picture
    level         the same of the music's level; for these three see `movement`
    caption       cosine to a judge of music and words: the clip's caption, and music made from the picture alone
    prompted      the same for music that the caption was a prompt for
    conditioning  the same by the model's own music-text tower: flattering, as the model learnt to please it; for
                  these three see `captions`

Every row has the score with the right video, with wrong ones (`wrong`), with the right one moved in time by half a
clip (`shifted`), intervals, p-values and what the real music reaches (`ceiling`); see `agreement`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from v2meow.evaluate import captions, movement, retrieval
from v2meow.evaluate.agreement import Scores, compare
from v2meow.evaluate.judge import Judge
from v2meow.evaluate.material import Material
from v2meow.evaluate.retrieval import Heard, SkipError, hear

MEASURES = ("retrieval", "beats", "onsets", "level", "caption", "prompted", "conditioning")
_LEAST = 3  # clips, below which nothing is tested


def measure(material: Material, judge: Judge | None = None) -> dict[str, Any]:
    """A row or None by the name of each measure; `per_clip`: each row's scores of the single clips, None where a clip
    has none; `skipped`: why a row is None. `judge` is one that learnt music and pictures of training clips already."""
    found: dict[str, Any] = dict.fromkeys(MEASURES) | {"per_clip": {}, "skipped": {}}
    heard: list[Heard] = []

    def ears() -> Heard:  # once, and only for those who need them
        if not heard:
            heard.append(hear(material))
        return heard[0]

    parts: dict[tuple[str, ...], Callable[[], tuple[list[int], dict[str, Scores]]]] = {
        MEASURES[:1]: lambda: retrieval.scores(material, ears(), judge),
        MEASURES[1:4]: lambda: movement.scores(material),
        MEASURES[4:]: lambda: captions.scores(material, ears()),
    }
    for names, part in parts.items():
        try:
            rows, scores = part()
            if len(rows) < _LEAST:
                raise SkipError(f"{len(rows)} held-out clips: at least {_LEAST} are needed")
        except SkipError as reason:
            found["skipped"] |= dict.fromkeys(names, str(reason))
            continue
        for name, each in scores.items():
            found[name] = _row(material, name, each)
            found["per_clip"][name] = _per_clip(each, rows, len(material.examples))
        found["skipped"] |= dict.fromkeys(set(names) - set(scores), "the model takes no prompts")
    return found


def _row(material: Material, name: str, scores: Scores) -> dict[str, Any]:
    permutations, seed = material.recipe.evaluate.permutations, material.recipe.seed
    row = compare(scores, permutations, seed)
    return row | ({"recall": retrieval.recalls(scores, permutations, seed)} if name == "retrieval" else {})


def _per_clip(scores: Scores, rows: list[int], count: int) -> list[float | None]:
    own = dict(zip(rows, np.diag(scores.generated).tolist(), strict=True))
    return [own.get(clip) for clip in range(count)]
