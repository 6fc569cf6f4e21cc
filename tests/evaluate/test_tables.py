"""Figures of metrics.json become rows by their form alone, whatever they are called."""

import pytest

from v2meow.evaluate.tables import Row, pairs, rows


def test_every_number_is_a_row_and_nothing_else_is():
    """A new measure must show in the report and the card without anyone having to think of it there."""
    found = {
        "loudness": -14.5,
        "frechet": {"mel": {"value": 2.0, "low": 1.0, "high": 3.0, "count": 9, "p_value": 0.5}, "skipped": "no labels"},
        "passed": True,
        "nothing": None,
        "per_clip": [1.0, 2.0],
    }
    assert list(rows(found)) == [
        Row(name="loudness", value=-14.5),
        Row(name="frechet.mel", value=2.0, low=1.0, high=3.0, count=9),
    ]


def test_what_stands_beside_a_figure_is_no_figure_but_a_group_in_it_is():
    """A p-value among the measures would be read as one."""
    found = {"count": 3, "retrieval": {"right": 0.5, "wrong": 0.1, "real": 0.75, "recall": {"at_1": {"right": 0.25}}}}
    assert list(rows(found)) == [
        Row(name="count", value=3),
        Row(name="retrieval", value=0.5, real=0.75),
        Row(name="retrieval.recall.at_1", value=0.25),
    ]


@pytest.mark.parametrize(
    ("better", "low", "high", "verdict"),
    [
        ("higher", 0.1, 0.3, "better"),
        ("higher", -0.3, -0.1, "worse"),
        ("lower", -0.3, -0.1, "better"),
        ("lower", 0.1, 0.3, "worse"),
        ("lower", -0.1, 0.3, ""),
        (None, 0.1, 0.3, ""),
    ],
)
def test_a_difference_is_called_better_or_worse_only_beyond_its_interval(better, low, high, verdict):
    row = {"difference": 0.2, "low": low, "high": high, "better": better}
    assert list(pairs({"a": {"b": row}, "model": "v3"})) == [{"name": "a.b", "verdict": verdict} | row]
