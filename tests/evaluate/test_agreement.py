"""The permutation test says what chance says, and each score says what its name does."""

from itertools import permutations
from math import factorial

import numpy as np
import pytest

from v2meow.evaluate.agreement import (
    Scores,
    compare,
    correlation_scores,
    correlation_test,
    equal_scores,
    permutation_test,
    tempo_scores,
)


def _exact_p(scores: np.ndarray) -> float:
    """The same test by going through every assignment, in plain Python."""
    places = range(len(scores))
    right = sum(scores[i, i] for i in places)
    totals = [sum(scores[i, order[i]] for i in places) for order in permutations(places)]
    return sum(total >= right - 1e-12 for total in totals) / len(totals)


def test_p_of_a_perfect_match_is_one_in_all_assignments():
    """Closed form: of N! assignments of distinct videos only the right one scores 1 everywhere."""
    found = permutation_test(np.eye(5), permutations=40_000, seed=0)
    assert (found.right, found.wrong, found.count) == (1.0, 0.0, 5)
    assert found.p_value == pytest.approx(1 / factorial(5), abs=4 * np.sqrt(1 / factorial(5) / 40_000))


@pytest.mark.parametrize("seed", range(4))
def test_p_is_that_of_going_through_every_assignment(seed):
    """A wrong tail, or a shuffle that is not uniform, would show here."""
    scores = np.random.default_rng(seed).normal(size=(6, 6))
    exact = _exact_p(scores)
    found = permutation_test(scores, permutations=20_000, seed=seed).p_value
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000) + 1e-4)


def test_p_is_uniform_when_music_ignores_the_video():
    """Else a gate at p ≤ 0.01 lets through more, or fewer, deaf models than one in a hundred."""
    trials = 500
    random = np.random.default_rng(1)
    scores = [correlation_scores(random.normal(size=12), random.normal(size=12)) for _ in range(trials)]
    found = np.sort([permutation_test(each, 499, seed).p_value for seed, each in enumerate(scores)])
    distance = np.max(np.abs(found - (np.arange(trials) + 0.5) / trials))
    assert distance < 1.63 / np.sqrt(trials)  # Kolmogorov–Smirnov, 1 %


def test_p_is_never_zero_and_one_when_all_videos_score_alike():
    """A p-value of 0 claims more than any number of permutations can show; a tie is no evidence."""
    assert permutation_test(np.eye(20), permutations=99, seed=0).p_value == 0.01
    assert permutation_test(np.full((4, 4), 0.3), permutations=99, seed=0).p_value == 1.0


def test_the_wrong_videos_mean_leaves_the_right_ones_out():
    scores = np.array([[5.0, 1.0, 2.0], [3.0, 5.0, 4.0], [5.0, 6.0, 5.0]])
    assert permutation_test(scores, permutations=9, seed=0).wrong == np.mean([1, 2, 3, 4, 5, 6])


def test_a_single_video_has_no_control():
    with pytest.raises(AssertionError, match="second video"):
        permutation_test(np.ones((1, 1)), permutations=9, seed=0)


def test_the_mean_of_matching_correlation_scores_is_pearsons():
    random = np.random.default_rng(2)
    heard = random.normal(size=40)
    seen = 3 * heard + random.normal(size=40)
    diagonal = np.diag(correlation_scores(heard, seen))
    assert diagonal.mean() == pytest.approx(np.corrcoef(heard, seen)[0, 1])


def test_music_of_one_level_correlates_with_nothing():
    """A constant has no standard score; NaN would spoil the metrics file, which refuses it."""
    assert not correlation_scores(np.full(5, -20.0), np.arange(5.0)).any()


def test_equal_scores_compare_music_by_row_with_video_by_column():
    """Transposed, every measure would still look right on the diagonal."""
    assert equal_scores(["bell", "flute"], ["flute", "flute"]).tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize(
    ("heard", "expected"), [(100.0, 1), (107.9, 1), (92.1, 1), (108.1, 0), (200.0, 1), (50.0, 1), (150.0, 0), (25.0, 0)]
)
def test_a_tempo_counts_within_the_tolerance_and_at_half_and_double(heard, expected):
    assert tempo_scores(np.array([heard]), np.array([100.0]), tolerance=0.08).tolist() == [[expected]]


def test_what_is_moved_in_time_is_a_control_of_its_own():
    """Music may go with its own video whenever it is played: then only this control tells that nothing coincides."""
    random = np.random.default_rng(3)
    scores = random.normal(0, 0.1, size=(12, 12)) + np.eye(12)
    alike = permutation_test(scores, 999, 0, shifted=np.diag(scores) + random.normal(0, 0.1, 12))
    apart = permutation_test(scores, 999, 0, shifted=np.diag(scores) - 0.5)
    assert alike.p_value == apart.p_value == 0.001
    assert alike.shifted_p_value is not None and alike.shifted_p_value > 0.05
    assert apart.shifted_p_value is not None and apart.shifted_p_value < 0.01
    assert apart.shifted == pytest.approx(apart.right - 0.5)
    assert permutation_test(scores, 9, 0).shifted is None


def test_the_interval_of_a_correlation_is_that_of_fisher_and_stays_below_one():
    """Closed form: tanh(atanh r ± 1.96 / √(N - 3)) for normal variables."""
    random = np.random.default_rng(4)
    heard = random.normal(size=300)
    found = correlation_test(heard, heard + 0.5 * random.normal(size=300), 99, 0)
    half = 1.96 / np.sqrt(297)
    expected = np.tanh(np.arctanh(found.right) + np.array([-half, half]))
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.01)
    assert found.right == pytest.approx(permutation_test(correlation_scores(heard, heard), 9, 0).right, abs=0.2)
    assert correlation_test(heard[:5], heard[:5], 99, 0).high <= 1 + 1e-9


def test_a_measure_that_does_not_find_real_music_says_that_it_cannot_be_trusted():
    deaf = np.random.default_rng(5).normal(size=(10, 10))
    found = compare(Scores(generated=np.eye(10), real=deaf), 999, 0)
    assert (
        found["p_value"] <= 0.01
        and not found["trustworthy"]
        and found["ceiling"] == pytest.approx(np.diag(deaf).mean())
    )
    assert compare(Scores(generated=deaf, real=np.eye(10)), 999, 0)["trustworthy"]
