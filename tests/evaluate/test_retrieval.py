"""Ranks are those of counting, and a judge that says the same of everything finds nothing."""

import numpy as np
import pytest

from v2meow.evaluate.agreement import Scores
from v2meow.evaluate.retrieval import moved_ranks, ranks, recalls


def _scores(generated: np.ndarray, shifted: np.ndarray) -> Scores:
    return Scores(generated=generated, real=np.eye(len(generated)), generated_shifted=shifted, real_shifted=shifted)


def test_ranks_are_those_of_counting():
    scores = np.random.default_rng(0).normal(size=(7, 7))
    counted = [[1 + sum(other > mine for other in row) for mine in row] for row in scores]
    assert ranks(scores).tolist() == counted


def test_equal_scores_share_the_middle_place():
    assert ranks(np.array([[0.5, 0.5, 0.1], [1, 1, 1], [0, 2, 1]])).tolist() == [[1.5, 1.5, 3], [2, 2, 2], [3, 1, 2]]


def test_a_judge_that_says_the_same_of_everything_recalls_nothing():
    found = recalls(_scores(np.ones((20, 20)), np.ones(20)), 99, 0)
    for way in ("picture", "music"):
        assert [found[way][f"at_{k}"]["right"] for k in (1, 5, 10)] == [0, 0, 0]
        assert found[way]["median_rank"]["right"] == found[way]["median_rank"]["chance"] == 10.5


def test_a_perfect_judge_recalls_all_and_what_is_moved_far_nothing():
    found = recalls(_scores(np.eye(20), np.full(20, -1.0)), 99, 0)["picture"]
    assert found["at_1"]["right"] == 1 and found["at_1"]["shifted"] == 0 and found["at_1"]["p_value"] == 0.01
    assert found["median_rank"] == {"right": 1, "shifted": 20, "ceiling": 1, "chance": 10.5}
    assert found["at_5"]["chance"] == 0.25


def test_chance_recalls_one_in_n():
    found = recalls(_scores(np.random.default_rng(1).normal(size=(100, 100)), np.zeros(100)), 99, 0)["music"]
    assert found["at_10"]["right"] == pytest.approx(0.1, abs=0.09) and found["at_10"]["p_value"] > 0.01


def test_either_way_is_told_apart():
    """One piece that is near to every picture is found for all of them, but finds its own only by chance."""
    scores = np.eye(6) * 0.5
    scores[0] = 1.0
    found = recalls(_scores(scores, np.zeros(6)), 99, 0)
    assert found["picture"]["at_1"]["right"] == pytest.approx(5 / 6)
    assert found["music"]["at_1"]["right"] == pytest.approx(1 / 6)


def test_a_moved_picture_stands_in_for_its_own():
    scores = np.array([[0.9, 0.5, 0.1], [0.2, 0.8, 0.3], [0.0, 0.4, 0.7]])
    assert moved_ranks(scores, np.array([0.3, 0.9, -1.0])).tolist() == [2, 1, 3]
