"""Windows cover music of any length once, with no gap and no frame twice."""

import itertools

import pytest

from v2meow.generate.windows import advance, chunk_ends

CASES = [(window, context) for window in (1, 2, 3, 7, 12) for context in range(window)]


@pytest.mark.parametrize(("window", "context"), CASES)
def test_every_frame_is_fresh_exactly_once(window, context):
    """A gap is silence; a frame sampled twice contradicts what was built upon it."""
    for total in range(61):
        windows = advance(total, window, context)
        fresh = itertools.chain.from_iterable(range(w.fresh, w.end) for w in windows)
        assert list(fresh) == list(range(total))


@pytest.mark.parametrize(("window", "context"), CASES)
def test_windows_are_equally_long_and_overlap_by_the_context(window, context):
    """A model that was trained on four seconds knows nothing of one that is handed half a second."""
    for total in range(window, 61):
        first, *later = advance(total, window, context)
        assert first == (0, window, 0)
        assert all(w.end - w.start == window for w in later)
        assert all(w.fresh - w.start == context for w in later[:-1])
        assert all(w.fresh - w.start >= context for w in later[-1:])  # moved back from the end


@pytest.mark.parametrize(("window", "context"), CASES)
def test_music_shorter_than_a_window_is_one_short_window(window, context):
    for total in range(1, window):
        assert advance(total, window, context) == [(0, total, 0)]
    assert advance(0, window, context) == []


@pytest.mark.parametrize("total", [1, 24, 25, 26, 50, 51, 99, 100, 101, 1000])
def test_chunks_of_sound_end_at_whole_seconds_and_reach_the_end(total):
    """A codec that carries its state over, or reads whole segments, knows no other places to cut."""
    ends = chunk_ends(total, 25)
    assert ends[-1] == total and all(end % 25 == 0 for end in ends[:-1])
    assert ends[0] <= 25 and ends == sorted(set(ends))
    assert all(end - before <= 50 for before, end in itertools.pairwise([0, *ends]))
