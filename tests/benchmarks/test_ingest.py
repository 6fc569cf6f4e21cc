"""The benchmark of ingest runs, and its contestants do the same work."""

import json

import numpy as np
import pytest

from benchmarks import ingest as bench

FIELDS = {"bench", "case", "seconds", "peer", "ours_x_core", "peer_x_core", "ours_x", "peer_x", "speedup"}


@pytest.fixture(scope="module")
def found():
    with bench.catalogue(None, 5) as made:
        yield made


def test_a_row_for_every_case_and_peer(found):
    """A benchmark that nobody runs is broken by the next change of what it measures."""
    rows = list(bench.compare(found, rounds=1))
    assert [(row["case"], row["peer"]) for row in rows] == [
        *((case, peer) for case in bench.SIZES for peer in ("every frame", "one scan")),
        ("encode", "one by one"),
        ("ingest", None),
        ("ingest again", None),
        ("extract", None),
    ]
    for row in rows:
        assert row.keys() == FIELDS and json.dumps(row)
        assert row["seconds"] == pytest.approx(30.0, abs=0.5) and row["ours_x"] > 0 and row["ours_x_core"] > 0
        assert row["peer"] is None or row["peer_x_core"] > 0


@pytest.mark.parametrize("rate", [10.0, 1.0])
def test_peers_see_the_same_pictures(found, rate):
    """One that reads other moments, or fewer, would be faster for nothing."""
    ours = bench.our_pictures(found, rate, 64)
    for peer in (bench.every_frame, bench.one_scan):
        theirs = peer(found, rate, 64)
        assert [video.shape for video in theirs] == [video.shape for video in ours]
        for mine, other in zip(ours, theirs, strict=True):
            assert np.abs(mine.astype(int) - other).mean((1, 2, 3)).max() < 4


def test_the_last_picture_stays_and_the_first_waits():
    shown = iter([(0.0, "a"), (0.5, "b"), (1.1, "c")])
    assert [name for _, name in bench._at(shown, 2.0, 3.0)] == ["a", "b", "b", "c", "c", "c"]
