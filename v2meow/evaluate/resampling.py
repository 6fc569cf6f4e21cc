"""How sure a figure over N clips is, by drawing the clips anew: intervals and paired tests.

Pure functions on arrays, the same answer for the same seed.
"""

from collections.abc import Callable

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
_BLOCK = 1_000_000  # numbers drawn at once: bounds memory for many clips


def interval(
    values: np.ndarray, seed: int = 0, *, level: float = LEVEL, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean of [N], which covers `level` (Efron 1979, "Bootstrap methods")."""
    return interval_of(lambda rows: values[rows].mean(-1), len(values), seed, level=level, resamples=resamples)


def interval_of(
    statistic: Callable[[np.ndarray], np.ndarray],
    count: int,
    seed: int = 0,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """That of any statistic of `count` clips: from row numbers [R, N], drawn with replacement, to its values [R]."""
    random = np.random.default_rng(seed)
    block = max(1, _BLOCK // count)
    found = np.concatenate(
        [
            statistic(random.integers(count, size=(min(block, resamples - first), count)))
            for first in range(0, resamples, block)
        ]
    )
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def sign_flip_p(differences: np.ndarray, permutations: int, seed: int = 0) -> float:
    """One-sided: how likely chance gives paired differences [N] with a mean as large, were either sign as likely."""
    random = np.random.default_rng(seed)
    values = differences.astype(np.float64)  # in float32 a sum in another order can miss itself
    signs = random.integers(2, size=(permutations, len(values))) * 2 - 1
    reached = int(np.sum(signs @ values >= values.sum() - 1e-9 * np.abs(values).sum()))
    return (reached + 1) / (permutations + 1)


def pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's correlation along the last axis of […, N]; 0 where either does not vary."""
    x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    spread = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    return np.divide((x * y).sum(-1), spread, out=np.zeros_like(spread), where=spread > 1e-12)
