"""The benchmark of the search for copies plants what it says it plants, and finds it."""

import numpy as np

from benchmarks import memorisation


def test_planted_copies_are_there_and_are_found():
    """A benchmark that looked for nothing would be the fastest of all."""
    search, plain = memorisation.compare(pieces=40, clips=300, ids=80, clusters=64, successors=8, hold=0.4)
    assert (search["found_exact"], search["found_approximate"]) == (1.0, 1.0)
    assert search["chance_exact"] == 0.0 and search["clips"] == 300
    assert plain["cpu_s"] > search["cpu_s"]


def test_the_plain_way_finds_the_longest_run():
    query, clip = np.array([1, 2, 3, 4, 5, 6]), np.array([9, 3, 4, 5, 9, 1, 2])
    assert memorisation._pair(query, clip) == 3 and memorisation._pair(query, query) == 6
    assert memorisation._pair(query, query + 10) == 0
