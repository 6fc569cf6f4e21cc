"""Is a model worse than another one on the same clips? Paired differences, by drawing the clips anew.

Pure functions on arrays. It knows neither models nor gates.
"""

from typing import Any, Literal

import numpy as np

from v2meow.evaluate.resampling import interval

Better = Literal["higher", "lower"]

# A gate asks some ten such questions, and a model that is as good as the other one must be told worse by none of
# them: 0.1 % on either side of each interval is 1 % for all.
LEVEL = 0.998
_RESAMPLES = 10_000


def paired(candidate: np.ndarray, other: np.ndarray, better: Better, seed: int) -> dict[str, Any]:
    """The row of two models' scores [N] of the same clips: means, `difference`, its bootstrap interval, `better`.

    The interval covers 99.8 %. Scores that are no number in either are left out, which `count` tells.
    """
    known = np.isfinite(candidate) & np.isfinite(other)
    ours, theirs = candidate[known], other[known]
    low, high = interval(ours - theirs, seed, level=LEVEL, resamples=_RESAMPLES)
    return {
        "difference": float((ours - theirs).mean()),
        "low": low,
        "high": high,
        "count": len(ours),
        "candidate": float(ours.mean()),
        "production": float(theirs.mean()),
        "better": better,
    }


def worse_by(row: dict[str, Any]) -> float:
    """By how much the candidate is worse at the least, as far as the interval tells; 0 or less where it need not be."""
    return row["low"] if row["better"] == "lower" else -row["high"]
