"""K-means over a stream of frames: memory does not grow with their number. The only home of scikit-learn's k-means."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import pairwise_distances_argmin

from v2meow.config import RecipeError

_FIRST = 65_536  # frames held at once: 256 MiB where they are 1024 wide
_BATCH = 4096  # frames an update
_ROUNDS = 30  # over the first frames; sums of full rounds (Lloyd) would depend on the number of threads


def fit_kmeans(
    batches: Iterable[np.ndarray], clusters: int, seed: int, first: int = _FIRST
) -> tuple[np.ndarray, dict[str, float]]:
    """Centroids float32 [clusters, D] of frames [N, D], in batches of any size in random order; the same for a seed.

    The `first` frames are held: k-means++ (Arthur & Vassilvitskii, 2007) starts from them, and mini-batches of them
    (Sculley, 2010) go on. Every later frame is seen once. Figures: `frames` seen, `mean_squared_distance` to the
    nearest centroid, `dead_clusters` that are nearest to no frame, and `entropy_bits` of the clusters' use, at most
    log2(clusters); the last three are of the later frames, each before it is learnt from, where there are any.
    RecipeError when there are fewer frames than clusters.
    """
    stream = _regrouped(batches, first)
    held = next(stream, np.zeros((0, 1), np.float32))
    if len(held) < clusters:
        raise RecipeError(
            f"semantic_ids.clusters: {clusters} clusters need as many audio frames, "
            f"the catalogue has {len(held)}: add videos or lower the number"
        )
    use = _Use(clusters)
    start = _estimator(clusters, random_state=seed, batch_size=_BATCH, max_iter=_ROUNDS, max_no_improvement=None)
    centroids = _go_on(np.asarray(start.fit(held).cluster_centers_), held, stream, use)
    if not use.frames:
        use.add(held, centroids)
        return centroids, {"frames": len(held), **use.figures()}
    return centroids, {"frames": len(held) + use.frames, **use.figures()}


def _estimator(clusters: int, **options: Any) -> MiniBatchKMeans:
    return MiniBatchKMeans(clusters, **options)  # its type stubs know the defaults alone


def _go_on(start: np.ndarray, held: np.ndarray, stream: Iterator[np.ndarray], use: "_Use") -> np.ndarray:
    """Centroids after all later frames.

    Every frame counts once: the estimator is a new one, because the first one counted the held frames many times over.
    None of its clusters are restarted: where one cluster is silence, all others look too small.
    """
    means = None
    for group in stream:
        if means is None:
            means = _estimator(len(start), init=start, n_init=1, reassignment_ratio=0.0).partial_fit(held)
        use.add(group, np.asarray(means.cluster_centers_))
        means.partial_fit(group)
    return np.asarray(start if means is None else means.cluster_centers_)


def _regrouped(batches: Iterable[np.ndarray], first: int) -> Iterator[np.ndarray]:
    """The same frames in the same order, in one group of `first`, then groups of _BATCH; the last may be smaller."""
    waiting: list[np.ndarray] = []
    size = first
    for batch in batches:
        waiting.append(np.ascontiguousarray(batch, dtype=np.float32))
        while sum(map(len, waiting)) >= size:
            joined = np.concatenate(waiting)
            yield joined[:size]
            waiting, size = [joined[size:]], _BATCH
    if sum(map(len, waiting)):
        yield np.concatenate(waiting)


class _Use:
    """How near frames are to their centroids, and how evenly these are used."""

    def __init__(self, clusters: int) -> None:
        self.counts, self._squares = np.zeros(clusters, dtype=np.int64), 0.0

    @property
    def frames(self) -> int:
        return int(self.counts.sum())

    def add(self, frames: np.ndarray, centroids: np.ndarray) -> None:
        nearest = pairwise_distances_argmin(frames, centroids)
        self.counts += np.bincount(nearest, minlength=len(centroids))
        self._squares += float(np.square(frames - centroids[nearest], dtype=np.float64).sum())

    def figures(self) -> dict[str, float]:
        shares = self.counts[self.counts > 0] / self.frames
        return {
            "mean_squared_distance": self._squares / self.frames,
            "dead_clusters": int((self.counts == 0).sum()),
            "entropy_bits": float(-(shares * np.log2(shares)).sum()),
        }
