"""Does the beginning of a clip bring back the rest of it? Of training clips, and of held-out ones to compare with.

The test of MusicLM (Agostinelli et al. 2023, arXiv 2301.11325, on memorization): the semantic stage is given the
conditions and the first ids of a clip and goes on, always with the likeliest id. What it makes is compared with how
the clip does go on: to the id, and by what it costs to turn the ids of the one into those of the other.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from v2meow.data.dataset import Examples
from v2meow.evaluate.material import Material
from v2meow.generate.parts import StageEngine, stage_engine
from v2meow.generate.request import Request
from v2meow.model.patterns import UNKNOWN
from v2meow.progress import progress
from v2meow.train.batches import make_batch

SECONDS = 5.0  # that are made, as in the paper, or a quarter of the clip where that is less
FALSE_ALARMS = 1e-4  # share of unrelated pairs that may be taken for approximate matches, as in the paper
_PROMPTS = 4  # lengths of prompt, from none to all that leaves room
_CLIPS = 48  # of either split
_PAIRS = 2000  # unrelated ones that the threshold is set on


def measure(material: Material) -> dict[str, Any]:
    """For each length of prompt (`prompts`), of training and of held-out clips the shares that were completed.

    `exact`: every id is the clip's; `approximate`: at less than the threshold's cost; `equal`: mean share of equal ids.
    NAME_excess is what training clips have above held-out ones, the mean over the prompts: what was learnt by heart.
    """
    clips = {"train": _one_a_video(material.train, _CLIPS), "held_out": _one_a_video(material.examples, _CLIPS)}
    engine = greedy_engine(material)
    window = round(material.recipe.stages.semantic.window_seconds * material.recipe.semantic_ids.rate)
    length = min(round(SECONDS * material.recipe.semantic_ids.rate), window // _PROMPTS)
    distances = torch.cdist(material.cascade.ids.centroids, material.cascade.ids.centroids).cpu().numpy()
    prompts = np.linspace(0, window - length, _PROMPTS).round().astype(int).tolist()
    rows = []
    with progress("complete training clips", len(prompts) * sum(map(len, clips.values()))) as bar:
        for prompt in prompts:
            pairs = {}
            for name, examples in clips.items():
                pairs[name] = complete(material, engine, examples, prompt, length)
                bar.advance(len(examples))
            seconds = {"prompt_s": prompt / material.recipe.semantic_ids.rate}
            rows.append(seconds | judge(pairs, distances, material.recipe.seed))
    excess = {
        f"{name}_excess": float(np.mean([row["train"][name] - row["held_out"][name] for row in rows]))
        for name in ("exact", "approximate", "equal")
    }
    return {"prompts": rows, **excess}


def greedy_engine(material: Material) -> StageEngine:
    """The semantic stage, always with the likeliest id; without guidance, which would lead away from what it knows."""
    recipe = material.recipe
    plain = replace(recipe.generate.semantic, top_k=1, top_p=1.0, guide_video=1.0, guide_text=1.0)
    greedy = replace(recipe.generate, semantic=plain)
    return stage_engine(material.bundle, replace(recipe, generate=greedy), "semantic", recipe.evaluate.batch)


def complete(
    material: Material, engine: StageEngine, examples: Examples, prompt: int, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """(made, true), both ids [N, length] that follow the first `prompt` ids of each clip."""
    batch = make_batch(material.recipe, "semantic", examples, torch.arange(len(examples)))
    tickets = {}
    for row in range(len(examples)):
        known = batch.codes[row, :, : prompt + length].clone()
        known[:, prompt:] = UNKNOWN
        tickets[engine.submit(Request(batch.conditions.take(torch.tensor([row])), known, row))] = row
    made = torch.empty(len(examples), length, dtype=torch.int64)
    while engine.busy:
        for ticket, codes in engine.step().items():
            made[tickets[ticket]] = codes[0, prompt:]
    return made.numpy(), batch.codes[:, 0, prompt : prompt + length].numpy()


def judge(pairs: dict[str, tuple[np.ndarray, np.ndarray]], distances: np.ndarray, seed: int) -> dict[str, Any]:
    """The figures of each split's (made, true) ids [N, L], and the threshold that all splits share."""
    threshold = unrelated_cost(list(pairs.values()), distances, seed)
    figures: dict[str, Any] = {"threshold": threshold}
    for name, (made, true) in pairs.items():
        exact = (made == true).all(1)
        near = np.array(
            [transport_cost(one, other, distances) < threshold for one, other in zip(made, true, strict=True)]
        )
        figures[name] = {
            "exact": float(exact.mean()),
            "approximate": float((exact | near).mean()),
            "equal": float((made == true).mean()),
            "count": len(made),
        }
    return figures


def transport_cost(one: np.ndarray, other: np.ndarray, distances: np.ndarray) -> float:
    """What it costs to turn ids [L] into others, in any order: the mean distance that each moves at the least.

    The earth mover's distance between their histograms (Rubner et al. 2000), which for equal numbers of ids is an
    assignment and needs no approximation such as Sinkhorn's.
    """
    costs = distances[np.ix_(one, other)]
    return float(costs[linear_sum_assignment(costs)].mean())


def unrelated_cost(pairs: list[tuple[np.ndarray, np.ndarray]], distances: np.ndarray, seed: int) -> float:
    """The cost that FALSE_ALARMS of unrelated pairs stay below: what was made for one clip against the end of another.

    Of fewer pairs than it takes to tell, the lowest cost. 0, which nothing stays below, where there are none.
    """
    drawn, random = [], np.random.default_rng(seed)
    for made, true in pairs:
        ones, others = np.nonzero(~np.eye(len(made), dtype=bool))
        chosen = random.permutation(len(ones))[: _PAIRS // len(pairs)]
        drawn += [transport_cost(made[ones[i]], true[others[i]], distances) for i in chosen]
    return float(np.quantile(drawn, FALSE_ALARMS, method="lower")) if drawn else 0.0


def _one_a_video(examples: Examples, count: int) -> Examples:
    """The first clips of `count` videos."""
    _, first = np.unique(examples.video_id, return_index=True)
    return examples.select(sorted(first.tolist())[:count])
