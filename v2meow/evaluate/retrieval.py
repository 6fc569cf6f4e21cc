"""Which picture belongs to this music, and which music to this picture? A judge learnt from training clips is asked.

Recall at K is a score of pairs, too: 1 where a video is among the K nearest to the music. So it has the same controls.
Legend: N held-out clips.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from v2meow.evaluate.agreement import Scores, compare
from v2meow.evaluate.judge import Judge, Side, music_side
from v2meow.evaluate.material import Material
from v2meow.progress import progress

RECALLS = (1, 5, 10)
_TAUGHT = 512  # training clips that judges learn from, at most
_LEAST_TAUGHT = 16


class SkipError(Exception):
    """A measure that this catalogue cannot give; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What judges hear of the generated, the real held-out and some training music, that of `rows` of the material."""

    generated: Side
    real: Side
    taught: Side
    rows: list[int]


def hear(material: Material) -> Heard:
    """Listen to all music; the training clips are evenly spread and go through the codec, as all the rest does."""
    train, rate = material.train, material.recipe.codec.sample_rate
    if len(train) < _LEAST_TAUGHT:
        raise SkipError(f"{len(train)} training clips to learn a judge from: at least {_LEAST_TAUGHT} are needed")
    rows = np.unique(np.linspace(0, len(train) - 1, min(_TAUGHT, len(train))).round().astype(int)).tolist()
    parts = []
    with progress("hear training clips", len(rows)) as bar:
        for codes in train.codes[rows].split(material.recipe.evaluate.batch):
            parts.append(music_side(material.cascade.codec.decode(codes), rate))
            bar.advance(len(codes))
    return Heard(
        generated=music_side(material.generated.waveforms, rate),
        real=music_side(material.real.waveforms, rate),
        taught=tuple(torch.cat(each) for each in zip(*parts, strict=True)),
        rows=rows,
    )


def scores(material: Material, heard: Heard, judge: Judge | None = None) -> tuple[list[int], dict[str, Scores]]:
    """Cosines of music and pictures, also of those moved in time, to a judge that learns here where none is given."""
    pictures = material.examples.visual
    moved = tuple(part.roll(part.shape[1] // 2, dims=1) for part in pictures)
    if judge is None:
        judge = Judge(heard.taught, tuple(part[heard.rows] for part in material.train.visual), material.recipe.seed)
    found = Scores(
        generated=judge.similarity(heard.generated, pictures),
        real=judge.similarity(heard.real, pictures),
        generated_shifted=np.diag(judge.similarity(heard.generated, moved)),
        real_shifted=np.diag(judge.similarity(heard.real, moved)),
    )
    return list(range(len(material.examples))), {"retrieval": found}


def recalls(scores: Scores, permutations: int, seed: int) -> dict[str, Any]:
    """How often the picture is found for its music (`picture`), and the music for its picture (`music`)."""
    return {
        "picture": _recall(scores, permutations, seed),
        "music": _recall(scores.turned(), permutations, seed),
    }


def _recall(scores: Scores, permutations: int, seed: int) -> dict[str, Any]:
    """`at_K`: rows for recall at K; and at which place what belongs stands in the median, 1 being the best."""
    assert scores.generated_shifted is not None and scores.real_shifted is not None
    made, real = ranks(scores.generated), ranks(scores.real)
    made_moved = moved_ranks(scores.generated, scores.generated_shifted)
    real_moved = moved_ranks(scores.real, scores.real_shifted)
    rows: dict[str, Any] = {}
    for k in RECALLS:
        found = Scores(
            generated=(made <= k).astype(float),
            real=(real <= k).astype(float),
            generated_shifted=(made_moved <= k).astype(float),
            real_shifted=(real_moved <= k).astype(float),
        )
        rows[f"at_{k}"] = compare(found, permutations, seed) | {"chance": min(1.0, k / len(made))}
    rows["median_rank"] = {
        "right": float(np.median(np.diag(made))),
        "shifted": float(np.median(made_moved)),
        "ceiling": float(np.median(np.diag(real))),
        "chance": (len(made) + 1) / 2,
    }
    return rows


def ranks(scores: np.ndarray) -> np.ndarray:
    """The place of each column in its row of [N, N], 1 for the highest score; equal ones share their middle place.

    Were ties decided for the right one, a judge that says the same of everything would find everything.
    """
    ordered = np.sort(scores, axis=1)
    above = [len(row) - np.searchsorted(row, mine, "right") for row, mine in zip(ordered, scores, strict=True)]
    upto = [len(row) - np.searchsorted(row, mine, "left") for row, mine in zip(ordered, scores, strict=True)]
    return (np.array(above) + 1 + np.array(upto)) / 2


def moved_ranks(scores: np.ndarray, shifted: np.ndarray) -> np.ndarray:
    """The place [N] that column i would have in row i of [N, N], had it the score shifted[i]."""
    replaced = scores.copy()
    np.fill_diagonal(replaced, shifted)
    return np.diag(ranks(replaced))
