"""How far generated music lies from real music as a whole, by where both lie in an embedding. Pure functions.

Every distance compares generated clips [N, D] with a reference [M, D], one vector a clip: frames of one clip are no
independent samples, and would make small sets look large. No distance hears whether the music fits its picture.

Legend: N generated and M reference clips, D width of the embedding, C classes.
"""

from collections.abc import Callable

import numpy as np

NEIGHBOURS = 5  # of density and coverage (Naeem et al. 2020, section 5)
_Z = 1.959964  # of a 95 % interval
_SIZES = 8  # subsets from which a distance is extrapolated
_DRAWS = 4  # subsets of each size


def frechet_distance(generated: np.ndarray, reference: np.ndarray) -> float:
    """Fréchet distance of the normal distributions with the means and covariances of [N, D] and [M, D].

    |m - m'|² + tr(S + S' - 2 (S S')^½), Dowson & Landau 1982; for audio Kilgour et al. 2019 (arXiv 1812.08466). It is
    biased upwards for few clips: see `frechet_limit`. N and M must be at least 2.
    """
    assert generated.shape[1] == reference.shape[1], (generated.shape, reference.shape)
    one, other = (np.asarray(each, np.float64) for each in (generated, reference))
    gap = one.mean(0) - other.mean(0)
    # (S S')^½ has the trace of all singular values of A B^T, where S = A^T A and S' = B^T B: exact even where
    # fewer clips than dimensions leave the covariances without an inverse.
    a, b = _root(one), _root(other)
    shared = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return max(0.0, float(gap @ gap + np.square(a).sum() + np.square(b).sum() - 2 * shared))


def _root(samples: np.ndarray) -> np.ndarray:
    """A [at most D, D] with A^T A the covariance of [N, D]."""
    return np.asarray(np.linalg.qr((samples - samples.mean(0)) / np.sqrt(len(samples) - 1), mode="r"))


def frechet_limit(generated: np.ndarray, reference: np.ndarray, seed: int = 0) -> float:
    """What the Fréchet distance tends to for ever more clips: a line through its values for fewer, over 1 / N.

    FAD-infinity of Gui et al. 2023 (arXiv 2311.01616), after Chong & Forsyth 2020 (arXiv 1911.07023). It can be
    slightly below 0 for equal distributions. N must be at least 4.
    """
    random, count = np.random.default_rng(seed), len(generated)
    sizes = np.unique(np.linspace(max(2, count // 2), count, _SIZES).round().astype(int))
    inverses, found = [], []
    for size in sizes:
        for _ in range(_DRAWS):
            inverses.append(1 / size)
            found.append(frechet_distance(generated[random.permutation(count)[:size]], reference))
    return float(np.polyfit(inverses, found, 1)[1])


def jackknife(statistic: Callable[[np.ndarray], float], samples: np.ndarray) -> np.ndarray:
    """Pseudo-values [N] of a statistic of [N, …] (Tukey 1958): their spread tells its uncertainty.

    For distances between sets a bootstrap would not do: a clip that is drawn twice is nearer to itself than any two
    clips are, so that every resampled distance would lie above the true one.
    """
    whole, count = statistic(samples), len(samples)
    left_out = [statistic(np.delete(samples, row, axis=0)) for row in range(count)]
    return count * whole - (count - 1) * np.array(left_out)


def around(value: float, pseudo: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a statistic by its pseudo-values."""
    reach = _Z * float(pseudo.std(ddof=1)) / np.sqrt(len(pseudo))
    return value - reach, value + reach


def kernel_values(generated: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """[N], one value a clip, whose mean is the kernel distance: the unbiased estimate of the squared MMD.

    Gretton et al. 2012, equation 3; for audio KAD, Chung et al. 2025 (arXiv 2502.15602): a Gaussian kernel as wide as
    the median distance between two reference clips, no assumption on distributions, and fair for few clips. Each
    value is the clip's influence: it weighs the other generated clips twice, so that the spread over [N] is the
    uncertainty of the distance, and two sets for the same pictures can be compared in pairs.
    """
    width = _median_distance(reference)
    among, across = _gaussian(generated, generated, width), _gaussian(generated, reference, width)
    beside = _gaussian(reference, reference, width)
    count, others = len(generated), len(reference)
    own = (among.sum(1) - 1) / (count - 1)
    apart = (beside.sum() - others) / (others * (others - 1))
    return 2 * own - own.mean() - 2 * across.mean(1) + apart


def density(generated: np.ndarray, reference: np.ndarray, neighbours: int = NEIGHBOURS) -> float:
    """How densely generated clips lie where the reference is: about 1 for equal distributions, 0 far away.

    Naeem et al. 2020 (arXiv 2002.09797), equation 4; fidelity, robust to single odd reference clips.
    """
    inside = _distances(reference, generated) <= _radius(reference, neighbours)[:, None]
    return float(inside.sum() / (neighbours * len(generated)))


def covered(generated: np.ndarray, reference: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """Whether each reference clip [M] has a generated one in its neighbourhood; the mean is their coverage.

    Naeem et al. 2020, equation 5; diversity: a model that makes one kind of music leaves the others uncovered. With far
    fewer generated clips than reference ones it cannot reach 1.
    """
    nearest = _distances(reference, generated).min(1)
    return nearest <= _radius(reference, neighbours)


def divergence(real: np.ndarray, generated: np.ndarray) -> np.ndarray:
    """Kullback-Leibler divergence in nats [N] of a classifier's probabilities [N, C] for pieces from the real music's.

    As text-to-audio models report it (Kreuk et al. 2023, arXiv 2209.15352), each piece against its own soundtrack.
    """
    p, q = (np.clip(each, 1e-6, None) for each in (real, generated))
    return (p * np.log(p / q)).sum(1)


def _distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    square = np.square(one).sum(1)[:, None] + np.square(other).sum(1)[None] - 2 * one @ other.T
    return np.sqrt(np.maximum(square, 0))


def _gaussian(one: np.ndarray, other: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-np.square(_distances(one, other)) / (2 * width**2))


def _median_distance(samples: np.ndarray) -> float:
    """Between two different clips of [M, D]; 1 where all are equal."""
    found = _distances(samples, samples)[np.triu_indices(len(samples), 1)]
    return float(np.median(found)) or 1.0


def _radius(reference: np.ndarray, neighbours: int) -> np.ndarray:
    """How far the k-th nearest other reference clip is, [M]."""
    kept = min(neighbours, len(reference) - 1)
    return np.sort(_distances(reference, reference), axis=1)[:, kept]
