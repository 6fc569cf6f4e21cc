"""Events are found where they are, and matched as the field's own library matches them."""

import mir_eval
import numpy as np
import pytest

from v2meow.evaluate import beats


@pytest.mark.parametrize("seed", range(40))
def test_the_f_measure_is_that_of_mir_eval(seed):
    """Its maximum matching in a bipartite graph is a second implementation of the walk along the line."""
    random = np.random.default_rng(seed)
    heard, seen = (np.sort(random.uniform(0, 4, size=random.integers(1, 30))) for _ in range(2))
    tolerance = random.uniform(0.02, 0.2)
    expected, _, _ = mir_eval.onset.f_measure(seen, heard, window=tolerance)
    assert beats.f_measure(heard, seen, tolerance) == pytest.approx(expected)


def test_no_event_is_used_twice():
    """Else a roll of drums would meet any picture."""
    assert beats.matches(np.array([1.0]), np.array([0.95, 1.0, 1.05])) == 1
    assert beats.f_measure(np.arange(0, 4, 0.01), np.array([1.0, 2.0])) == pytest.approx(4 / 402)


def test_silence_and_stillness_score_nothing_rather_than_fail():
    nothing = np.zeros(0)
    assert beats.f_measure(nothing, nothing) == beats.f_measure(nothing, np.array([1.0])) == 0.0


def test_scores_compare_music_by_row_with_pictures_by_column():
    early, late = np.array([0.5, 1.0]), np.array([2.0, 3.0])
    assert beats.f_scores([early, late], [late, late]).tolist() == [[0, 0], [1, 1]]


def test_peaks_stand_where_the_curve_is_highest():
    curve = np.zeros(100)
    curve[[10, 40, 41, 80]] = 1.0, 0.9, 1.0, 0.7
    assert beats.peaks(curve, rate=25.0) == pytest.approx([0.4, 1.64, 3.2])


def test_a_plateau_is_one_event_and_what_never_rises_is_none():
    curve = np.zeros(100)
    curve[20:24] = 1.0
    assert beats.peaks(curve, rate=25.0) == pytest.approx([0.8])
    assert len(beats.peaks(np.full(100, 0.7), rate=25.0)) <= 1
    assert len(beats.peaks(curve * 1e-6, rate=25.0)) == 0
    assert len(beats.peaks(np.ones(1), rate=25.0)) == 0


def test_what_is_moved_beyond_the_end_comes_in_at_the_beginning():
    assert beats.moved(np.array([0.5, 1.0, 3.5]), 2.0, 4.0) == pytest.approx([1.5, 2.5, 3.0])


def test_correlations_are_those_of_every_pair():
    random = np.random.default_rng(0)
    heard, seen = random.normal(size=(3, 50)), random.normal(size=(3, 50))
    expected = [[np.corrcoef(a, b)[0, 1] for b in seen] for a in heard]
    assert beats.correlations(heard, seen) == pytest.approx(np.array(expected))


def test_smoothing_keeps_what_is_constant_to_the_very_ends():
    """Filled up with zeros, every curve would rise at the beginning and fall at the end, and all would correlate."""
    assert beats.smoothed(np.full((2, 40), 3.0), 25.0, 0.3) == pytest.approx(3.0)
    one = np.zeros((1, 41))
    one[0, 20] = 1.0
    assert beats.smoothed(one, 25.0, 0.3)[0, 20] == pytest.approx(beats.smoothed(one, 25.0, 0.3).max())
