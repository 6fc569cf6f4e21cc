"""Agreement among raters against published and independent values: a wrong kappa would vouch for worthless ratings."""

from itertools import permutations

import numpy as np

from v2meow.evaluate.study.kappa import fleiss_kappa

# 10 subjects, 14 raters, 5 categories: the worked example that most packages test with. Kappa 0.2099.
_EXAMPLE = [
    *([0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1]),
    *([7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]),
]


def test_the_worked_example_comes_out():
    found = fleiss_kappa(np.array(_EXAMPLE))
    assert found.kappa is not None and abs(found.kappa - 0.20993) < 1e-5
    assert found.observed is not None and abs(found.observed - 0.37802) < 1e-5
    assert found.expected is not None and abs(found.expected - 0.21276) < 1e-5


def test_unequal_numbers_of_ratings_agree_with_counting_pairs_of_ratings_one_by_one():
    """Raters leave early, so subjects have different numbers of ratings; the usual formula assumes equal ones."""
    random = np.random.default_rng(5)
    ratings = [random.integers(0, 3, random.integers(1, 7)).tolist() for _ in range(30)]
    table = np.array([[row.count(category) for category in range(3)] for row in ratings])
    twice = [row for row in ratings if len(row) >= 2]
    agreeing = [float(np.mean([a == b for a, b in permutations(row, 2)])) for row in twice]
    flat = [one for row in twice for one in row]
    chance = sum((flat.count(category) / len(flat)) ** 2 for category in range(3))
    found = fleiss_kappa(table)
    assert found.subjects == len(twice) < len(ratings)
    assert found.kappa is not None
    np.testing.assert_allclose(found.kappa, (np.mean(agreeing) - chance) / (1 - chance))


def test_where_kappa_means_nothing_it_is_none():
    """Nobody rated twice, or everybody said the same: 0 / 0 must not become a number."""
    assert fleiss_kappa(np.array([[1, 0, 0], [0, 1, 0]])).kappa is None
    assert fleiss_kappa(np.zeros((0, 3))).kappa is None
    alike = fleiss_kappa(np.array([[3, 0, 0], [2, 0, 0]]))
    assert (alike.kappa, alike.observed) == (None, 1.0)
