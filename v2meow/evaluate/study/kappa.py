"""How far raters agree beyond chance: Fleiss' kappa (Psychological Bulletin 76, 1971)."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Consensus:
    """Share of pairs of ratings that agree, the share expected by chance, and kappa.

    `kappa` is None where it is not defined: nothing was rated twice, or all ratings are alike. `subjects` have at
    least two ratings.
    """

    observed: float | None
    expected: float | None
    kappa: float | None
    subjects: int


def fleiss_kappa(counts: np.ndarray) -> Consensus:
    """Agreement of counts [N, C]: how many ratings of subject i fell into category j.

    Subjects with fewer than two ratings tell nothing. Where their numbers differ, each pair of ratings of a subject
    counts alike within it and each subject alike, and the categories' shares are those of all these ratings: with
    equal numbers that is Fleiss' formula.
    """
    counts = np.asarray(counts, np.float64)
    assert counts.ndim == 2, counts.shape
    totals = counts.sum(1)
    counts, totals = counts[totals >= 2], totals[totals >= 2]
    if not len(counts):
        return Consensus(observed=None, expected=None, kappa=None, subjects=0)
    observed = float(np.mean((counts * (counts - 1)).sum(1) / (totals * (totals - 1))))
    expected = float(np.sum((counts.sum(0) / totals.sum()) ** 2))
    kappa = (observed - expected) / (1 - expected) if expected < 1 - 1e-12 else None
    return Consensus(observed=observed, expected=expected, kappa=kappa, subjects=len(counts))
