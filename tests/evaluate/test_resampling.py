"""Intervals cover what they say, and paired tests are those of going through every sign."""

from itertools import product

import numpy as np
import pytest

from v2meow.evaluate.resampling import interval, interval_of, pearson, sign_flip_p


def test_the_interval_of_a_mean_is_that_of_the_normal_law_for_many_clips():
    """Closed form: mean ± 1.96 s / √n."""
    values = np.random.default_rng(0).normal(3.0, 2.0, size=400)
    half = 1.96 * values.std() / 20
    assert interval(values) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.12 * half)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(1)
    covered = [low <= 0.3 <= high for low, high in (interval(random.random(40) < 0.3) for _ in range(200))]
    assert 0.88 <= np.mean(covered) <= 1.0


def test_the_same_seed_gives_the_same_interval_and_any_number_of_clips_fits_into_memory():
    values = np.random.default_rng(2).normal(size=5000)
    assert interval(values, seed=3) == interval(values, seed=3) != interval(values, seed=4)


def test_an_interval_of_a_statistic_draws_pairs_together():
    """Drawn apart, any correlation would be near 0."""
    x = np.random.default_rng(3).normal(size=50)
    low, high = interval_of(lambda rows: pearson(x[rows], 2 * x[rows] + 1), len(x))
    assert (low, high) == pytest.approx((1.0, 1.0))


@pytest.mark.parametrize("seed", range(3))
def test_p_of_paired_differences_is_that_of_all_signs(seed):
    differences = np.random.default_rng(seed).normal(0.3, 1.0, size=8)
    sums = [np.dot(signs, differences) for signs in product((-1, 1), repeat=8)]
    exact = np.mean(np.array(sums) >= differences.sum() - 1e-12)
    found = sign_flip_p(differences, 20_000, seed)
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000) + 1e-4)


def test_no_difference_at_all_is_no_evidence():
    assert sign_flip_p(np.zeros(9), 99) == 1.0


def test_pearson_is_numpys_and_zero_for_what_does_not_vary():
    random = np.random.default_rng(4)
    x, y = random.normal(size=(5, 30)), random.normal(size=(5, 30))
    assert pearson(x, y) == pytest.approx([np.corrcoef(a, b)[0, 1] for a, b in zip(x, y, strict=True)])
    assert pearson(np.ones(9), np.arange(9.0)) == 0.0


def test_few_pairs_prove_little_however_their_numbers_are_rounded():
    """Three differences agree by chance in one of eight cases; summed in float32, the case itself was not counted."""
    random = np.random.default_rng(1)
    for _ in range(200):
        differences = random.uniform(0.1, 10.0, 3).astype(np.float32)
        assert sign_flip_p(differences, 2000) >= 0.1
