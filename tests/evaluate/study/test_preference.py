"""Scores and win rates against closed forms, a second implementation and simulated raters."""

import numpy as np
import pytest
from scipy.optimize import minimize

from v2meow.evaluate.study.preference import (
    Ratings,
    bounded,
    counts,
    davidson,
    pair_rates,
    resampled,
    share_interval,
    wilson,
    win_rates,
)


def test_two_systems_have_the_scores_that_can_be_written_down():
    """With one pair the model is saturated: e to the difference is wins over losses, nu ties over their mean."""
    scores, ties = davidson(np.array([[300.0, 100.0, 100.0]]), 2)
    np.testing.assert_allclose(scores, [np.log(3) / 2, -np.log(3) / 2], rtol=1e-3)
    np.testing.assert_allclose(np.exp(ties), 100 / np.sqrt(300 * 100), rtol=1e-3)
    without, _ = davidson(np.array([[300.0, 0.0, 100.0]]), 2)
    np.testing.assert_allclose(without[0] - without[1], np.log(3), rtol=1e-3)


def test_a_general_optimiser_finds_the_same_maximum():
    """An error in the gradient or the curvature would stop Newton's method somewhere else."""
    random = np.random.default_rng(1)
    outcomes = random.integers(5, 40, (6, 3)).astype(float)
    first, second = np.triu_indices(4, 1)

    def cost(parameters: np.ndarray) -> float:
        one, other = parameters[first], parameters[second]
        logits = np.stack([one, parameters[4] + (one + other) / 2, other], axis=1)
        chance = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        return float(-(outcomes * chance).sum() + (parameters**2).sum() / 200)

    best = minimize(cost, np.zeros(5), tol=1e-10).x
    scores, ties = davidson(outcomes, 4)
    np.testing.assert_allclose(scores, best[:4] - best[:4].mean(), atol=1e-4)
    np.testing.assert_allclose(ties, best[4], atol=1e-4)


def test_many_tallies_at_once_are_each_as_alone():
    outcomes = np.random.default_rng(2).integers(0, 9, (7, 3, 3)).astype(float)
    together, _ = davidson(outcomes, 3)
    np.testing.assert_allclose(together, [davidson(one, 3)[0] for one in outcomes], atol=1e-6)


def test_a_system_that_never_lost_has_a_finite_score_and_is_told_of():
    """The likelihood has no maximum there: it must neither run away nor pass for a measured score."""
    outcomes = np.array([[10.0, 0, 0], [10, 0, 0], [4, 2, 4]])
    scores, _ = davidson(outcomes, 3)
    assert np.isfinite(scores).all() and scores[0] > 3
    assert not bounded(outcomes, 3)
    outcomes[1, 2] = 1
    assert bounded(outcomes, 3)
    assert not bounded(np.array([[1.0, 0, 1], [0, 0, 0], [0, 0, 0]]), 3), "a system that nobody compared"


def test_win_rates_count_ties_as_halves():
    outcomes = np.array([[6.0, 2, 2], [0, 0, 0], [1, 0, 3]])
    np.testing.assert_allclose(pair_rates(outcomes), [0.7, np.nan, 0.25])
    np.testing.assert_allclose(win_rates(outcomes, 3), [7 / 10, (3 + 1) / 14, 3 / 4])


def test_wilson_is_the_published_interval():
    """For 0 of 10 its upper end is z² / (n + z²); for half of them it is symmetric."""
    z2 = 1.959964**2
    none = wilson(0.0, 10)
    assert none.low < 1e-12 and none.high == pytest.approx(z2 / (10 + z2), rel=1e-6)
    half = wilson(0.5, 40)
    assert half.high - 0.5 == pytest.approx(0.5 - half.low) == pytest.approx(0.5 * np.sqrt(z2 / (40 + z2)), rel=1e-6)


def _clustered(raters: int, each: int, seed: int) -> Ratings:
    """Ratings of one pair by raters of whom each always says the same."""
    taste = np.random.default_rng(seed).integers(0, 2, raters) * 2
    rater = np.repeat(np.arange(raters), each)
    zeros = np.zeros(raters * each, int)
    return Ratings(pair=zeros, outcome=taste[rater], rater=rater, video=np.tile(np.arange(each), raters))


def test_ratings_of_one_rater_are_not_taken_for_independent():
    """Ten raters with twenty ratings each, who are ten opinions, must not give the interval of two hundred."""
    ratings = _clustered(raters=10, each=20, seed=3)
    drawn = pair_rates(resampled(ratings, 2, 2000, seed=0))[:, 0]
    share = float(pair_rates(counts(ratings, 2))[0])
    found = share_interval(share, 200, drawn)
    naive, honest = wilson(share, 200), wilson(share, 10)
    assert found.high - found.low > 3 * (naive.high - naive.low)
    assert found.high - found.low == pytest.approx(honest.high - honest.low, rel=0.15)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    """Raters and videos differ; over many studies 95 % intervals of a win rate must not be too narrow."""
    random = np.random.default_rng(11)
    raters, videos, held = 12, 10, 0
    rater, video = (grid.ravel() for grid in np.mgrid[:raters, :videos])
    for study in range(100):
        logits = random.normal(0, 0.7, raters)[rater] + random.normal(0, 0.7, videos)[video]
        outcome = 2 * (random.random(len(rater)) > 1 / (1 + np.exp(-logits)))
        ratings = Ratings(pair=np.zeros_like(rater), outcome=outcome, rater=rater, video=video)
        drawn = pair_rates(resampled(ratings, 2, 200, seed=study))[:, 0]
        interval = share_interval(float(pair_rates(counts(ratings, 2))[0]), len(rater), drawn)
        held += interval.low <= 0.5 <= interval.high  # the truth, by symmetry
    assert held >= 90
