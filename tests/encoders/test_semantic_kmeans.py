"""K-means over a stream is as good as over all frames at once, and remembers few of them."""

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest

from v2meow.encoders.semantic.kmeans import fit_kmeans

CENTRES = 10 * np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)


def _frames(count: int, seed: int, clusters: int = 8) -> np.ndarray:
    """Frames around the first of eight centres, with a spread of 1 in each of four directions."""
    random = np.random.default_rng(seed)
    return CENTRES[random.integers(clusters, size=count)] + random.normal(size=(count, 4)).astype(np.float32)


def test_figures_say_how_near_and_how_even():
    """Of eight far centres with a spread of 1 in 4 directions the distance is 4, of even use the entropy is 3 bits."""
    centroids, figures = fit_kmeans([_frames(3000, 1), _frames(2000, 2)], 8, seed=0)
    assert figures["frames"] == 5000 and figures["dead_clusters"] == 0
    assert figures["mean_squared_distance"] == pytest.approx(4, rel=0.05)
    assert figures["entropy_bits"] == pytest.approx(3, abs=0.02)
    for centre in CENTRES:
        assert np.abs(centroids - centre).max(1).min() < 0.2


def test_clusters_that_nothing_is_near_to_are_counted():
    frames = np.repeat(np.eye(3, 4, dtype=np.float32), 100, axis=0)  # three different frames for five clusters
    _, figures = fit_kmeans([frames], 5, seed=0)
    assert figures["dead_clusters"] == 2 and figures["entropy_bits"] == pytest.approx(np.log2(3))


def test_later_frames_count():
    """A stream whose later part has sounds that the first lacks must move centroids there."""
    early, late = _frames(1000, 1, clusters=4), _frames(20_000, 2)
    (alone, _), (whole, figures) = fit_kmeans([early], 8, 0), fit_kmeans([early, late], 8, 0, first=1000)

    def distance(centroids: np.ndarray) -> float:
        return float(np.square(late[:, None] - centroids).sum(2).min(1).mean())

    assert figures["frames"] == 21_000
    assert distance(whole) < 0.6 * distance(alone)


def test_a_stream_is_as_good_as_all_at_once():
    parts = [_frames(700, seed) for seed in range(30)]
    _, streamed = fit_kmeans(parts, 64, 0, first=2000)
    held, _ = fit_kmeans(parts, 64, 0)
    frames = np.concatenate(parts)
    best = np.square(frames[:, None] - held).sum(2).min(1).mean()
    assert streamed["mean_squared_distance"] < 1.2 * best


def test_the_size_of_batches_does_not_matter():
    """Clips are read a few at a time, and how many must not decide what an id means."""
    frames = _frames(9000, 1)
    found = [fit_kmeans(np.array_split(frames, parts), 8, 0, first=3000)[0] for parts in (1, 7, 90)]
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_memory_does_not_grow_with_the_stream():
    def stream(batches: int) -> Iterator[np.ndarray]:
        return (_frames(1000, seed) for seed in range(batches))

    def peak(batches: int) -> int:
        tracemalloc.start()
        fit_kmeans(stream(batches), 8, 0, first=5000)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(10)
    assert peak(100) < 1.5 * peak(10)
