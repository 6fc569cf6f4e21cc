"""Scores and win rates from paired comparisons with ties. Pure functions on arrays.

Legend: R ratings, S systems, P = S (S - 1) / 2 pairs of systems (i, j), i < j, in the order of `np.triu_indices`,
B resamples. Outcomes are counted in [..., P, 3]: i preferred, neither, j preferred.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.sparse.csgraph import connected_components

CONFIDENCE = 0.95
_PRIOR_SD = 10.0  # nats: enough that scores stay finite where the data do not bound them, and felt nowhere else
_STEPS = 100
_TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Ratings:
    """Outcomes of comparisons: `pair` in 0 … P - 1 and `outcome` in 0 … 2 of each, and whose they are; all int [R].

    `rater` and `video` are numbers from 0 on.
    """

    pair: np.ndarray
    outcome: np.ndarray
    rater: np.ndarray
    video: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its interval at `CONFIDENCE`."""

    value: float
    low: float
    high: float


def counts(ratings: Ratings, systems: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Outcomes [P, 3], where `weights` [R] says how often each rating counts."""
    pairs = systems * (systems - 1) // 2
    cells = np.bincount(ratings.pair * 3 + ratings.outcome, weights, minlength=pairs * 3)
    return cells.astype(np.float64).reshape(pairs, 3)


def davidson(outcomes: np.ndarray, systems: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores [..., S] in nats, mean 0, and the log of the tie parameter [...], of outcomes [..., P, 3].

    Davidson's model of ties (JASA 65, 1970) on Bradley and Terry's (Biometrika 39, 1952): i is preferred to j, neither
    is, and j is, in the proportion of exp(s_i), nu exp((s_i + s_j) / 2) and exp(s_j). Newton's method on the
    likelihood, which is concave, with a normal prior of 10 nats on every parameter.
    """
    outcomes = np.asarray(outcomes, np.float64)
    design = _design(systems)  # [P, 3, S + 1]
    totals = outcomes.sum(-1)
    parameters = np.zeros((*outcomes.shape[:-2], systems + 1))
    ridge = np.eye(systems + 1) / _PRIOR_SD**2
    for _ in range(_STEPS):
        chance = _softmax(np.einsum("pkd,...d->...pk", design, parameters))
        expected = totals[..., None] * chance
        slope = np.einsum("...pk,pkd->...d", outcomes - expected, design) - parameters / _PRIOR_SD**2
        mean = np.einsum("...pk,pkd->...pd", chance, design)
        second = np.einsum("...pk,pkd,pke->...de", expected, design, design)
        curvature = second - np.einsum("...p,...pd,...pe->...de", totals, mean, mean) + ridge
        step = np.linalg.solve(curvature, slope[..., None])[..., 0]
        step *= np.minimum(1.0, 2.0 / np.maximum(np.abs(step).max(-1, keepdims=True), 1e-12))
        parameters = parameters + step
        if np.abs(step).max() < _TOLERANCE:
            break
    scores = parameters[..., :systems]
    return scores - scores.mean(-1, keepdims=True), parameters[..., systems]


def bounded(outcomes: np.ndarray, systems: int) -> bool:
    """Whether the data alone bound the scores: no group of systems always wins against the others (Ford, 1957)."""
    beaten = np.zeros((systems, systems))
    first, second = np.triu_indices(systems, 1)
    beaten[first, second] = outcomes[:, 0] + outcomes[:, 1]
    beaten[second, first] = outcomes[:, 2] + outcomes[:, 1]
    return connected_components(beaten, directed=True, connection="strong", return_labels=False) == 1


def win_rates(outcomes: np.ndarray, systems: int) -> np.ndarray:
    """Share of its comparisons that each system wins [..., S], a tie being half a win; NaN without comparisons."""
    won, compared = _won(outcomes), outcomes.sum(-1)
    first, second = np.triu_indices(systems, 1)
    wins, all_of = (np.zeros((*outcomes.shape[:-2], systems)) for _ in range(2))
    for pair, (i, j) in enumerate(zip(first, second, strict=True)):
        wins[..., i] += won[..., pair]
        wins[..., j] += compared[..., pair] - won[..., pair]
        all_of[..., [i, j]] += compared[..., pair, None]
    return _share(wins, all_of)


def pair_rates(outcomes: np.ndarray) -> np.ndarray:
    """Share of the comparisons of each pair that its first system wins [..., P], a tie being half a win."""
    return _share(_won(outcomes), outcomes.sum(-1))


def resampled(ratings: Ratings, systems: int, resamples: int, seed: int) -> np.ndarray:
    """Outcomes [B, P, 3] of a bootstrap that draws raters and videos anew, both with replacement.

    Ratings of one rater are alike, and so are those of one video: a rating counts as often as its rater times its
    video was drawn (the pigeonhole bootstrap; Owen, Annals of Applied Statistics 1, 2007), which does not take them
    for independent and rather errs towards wide intervals. A single rater or video is not drawn, and resamples in
    which nothing was compared are left out.
    """
    random = np.random.default_rng(seed)
    raters, videos = int(ratings.rater.max()) + 1, int(ratings.video.max()) + 1
    found = []
    for _ in range(resamples):
        of_rater, of_video = (random.multinomial(n, np.full(n, 1 / n)) for n in (raters, videos))
        found.append(counts(ratings, systems, of_rater[ratings.rater] * of_video[ratings.video]))
    drawn = np.array(found)
    return drawn[drawn.sum((1, 2)) > 0]


def percentiles(value: float, draws: np.ndarray) -> Interval:
    """The interval that holds the middle `CONFIDENCE` of the draws [B]."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(value=value, low=float(min(low, value)), high=float(max(high, value)))


def share_interval(share: float, count: float, draws: np.ndarray) -> Interval:
    """Wilson's interval of a share of `count`, as wide as if so many independent ratings had spread like the draws [B].

    So it neither takes ratings of one rater for independent nor shrinks to nothing where all of them agree. NaN draws,
    in which nothing was compared, are passed over.
    """
    spread = float(np.nanvar(draws)) if np.isfinite(draws).any() else 0.0
    effective = min(count, share * (1 - share) / spread) if spread > 0 and 0 < share < 1 else count
    return wilson(share, effective)


def wilson(share: float, count: float) -> Interval:
    """Wilson's score interval (JASA 22, 1927) of a share of `count` independent trials; `count` need not be whole."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Interval(value=share, low=max(0.0, float(centre - half)), high=min(1.0, float(centre + half)))


def _design(systems: int) -> np.ndarray:
    """What each outcome's logit takes of each parameter: [P, 3, S + 1], the last parameter being log nu."""
    first, second = np.triu_indices(systems, 1)
    pairs = np.arange(len(first))
    design = np.zeros((len(first), 3, systems + 1))
    design[pairs, 0, first] = design[pairs, 2, second] = 1.0
    design[pairs, 1, first] = design[pairs, 1, second] = 0.5
    design[:, 1, systems] = 1.0
    return design


def _softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def _won(outcomes: np.ndarray) -> np.ndarray:
    return outcomes[..., 0] + outcomes[..., 1] / 2


def _share(wins: np.ndarray, compared: np.ndarray) -> np.ndarray:
    return np.divide(wins, compared, out=np.full_like(compared, np.nan), where=compared > 0)
