"""A catalogue that became another one is noticed, one that only grew is not."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats

from v2meow.data.drift import SHIFTED_PSI, _chi2_quantile, drift, from_json, ks, profile, psi, psi_of_names


def _normal(seed, count, mean=0.0):
    return np.random.default_rng(seed).normal(mean, 1.0, count)


def test_the_index_is_the_sum_of_the_formula():
    p, q = np.array([0.2, 0.8]), np.array([0.5, 0.5])
    expected = (0.3 * np.log(0.5 / 0.2)) + (-0.3 * np.log(0.5 / 0.8))
    assert psi(p * 1e7, q * 1e7) == pytest.approx(expected, rel=1e-5)


def test_the_same_population_moves_no_more_than_the_limit():
    """False alarms at every retraining would be ignored, and then the true one."""
    alarms = 0
    for seed in range(400):
        found = drift(profile(_normal(seed, 60)), _normal(1000 + seed, 40))
        assert found is not None
        alarms += found.shifted
    assert alarms <= 4


def test_a_shift_by_one_deviation_is_noticed():
    found = drift(profile(_normal(1, 200)), _normal(2, 200, mean=1.0))
    assert found is not None and found.shifted and found.psi > 2 * SHIFTED_PSI
    assert (found.before, found.after) == pytest.approx((0.0, 1.0), abs=0.2)


@pytest.mark.parametrize("now", [24.0, 30.0])
def test_a_column_that_was_constant_is_noticed_to_change_either_way(now):
    """With bins cut at the tenths alone, everything below the only value lay in its own bin."""
    before = profile(np.full(100, 25.0))
    same, other = drift(before, np.full(50, 25.0)), drift(before, np.full(50, now))
    assert same is not None and other is not None
    assert not same.shifted and other.shifted


def test_too_few_values_say_nothing():
    assert drift(profile(_normal(1, 500)), _normal(2, 19)) is None
    assert drift(profile(np.full(30, np.nan)), _normal(2, 30)) is None


def test_numbers_that_are_none_do_not_count():
    values = _normal(3, 50)
    assert profile(np.concatenate([values, [np.nan, np.inf]])) == profile(values)


def test_a_profile_comes_back_from_json():
    before = profile(_normal(4, 123))
    assert from_json(json.loads(json.dumps(asdict(before)))) == before


@pytest.mark.parametrize("damage", [{"count": 5}, {"edges": [1.0]}, {"counts": None}])
def test_a_damaged_profile_is_refused(damage):
    with pytest.raises(ValueError, match="no profile of a column"):
        from_json(asdict(profile(_normal(4, 123))) | damage)


def test_a_genre_that_vanished_counts_as_far_away():
    assert psi_of_names({"jazz": 50, "rock": 50}, {"rock": 100}) > 1
    assert psi_of_names({"jazz": 50, "rock": 50}, {"rock": 100, "jazz": 100}) < 0.01


@pytest.mark.parametrize("seed", range(5))
def test_the_statistic_is_that_of_scipy(seed):
    rng = np.random.default_rng(seed)
    before, after = rng.integers(0, 9, 40 + seed), rng.integers(seed, 12, 31)  # with ties
    assert ks(before, after) == pytest.approx(stats.ks_2samp(before, after)[0])


@pytest.mark.parametrize("freedom", [2, 5, 11])
def test_the_quantile_is_that_of_chi_squared(freedom):
    assert _chi2_quantile(freedom) == pytest.approx(stats.chi2.ppf(0.999, freedom), rel=0.03)
