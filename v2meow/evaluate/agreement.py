"""Does the music go with its own video better than with other videos? A permutation test on any measure.

Pure functions on arrays. Legend: N pieces of music, each made for the video of the same number.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from v2meow.evaluate.resampling import interval, interval_of, pearson, sign_flip_p

EVIDENCE = 0.01  # p-value up to which something counts as found


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Mean score with the right video and with all wrong ones, and how likely chance does as well.

    `p_value` is one-sided: the share of random assignments of videos to music (the real one counted
    in) whose mean score reaches that of the right assignment. `low` and `high` bound `right`: a 95 %
    bootstrap interval over the pieces. `shifted` is the mean score with the right video moved in time,
    and `shifted_p_value` how likely chance puts `right` as far above it (signs of the paired differences
    flipped); both are None for a measure that time does not enter.
    """

    right: float
    low: float
    high: float
    wrong: float
    p_value: float
    count: int
    shifted: float | None = None
    shifted_p_value: float | None = None


def permutation_test(
    scores: np.ndarray, permutations: int, seed: int, *, shifted: np.ndarray | None = None
) -> Agreement:
    """Test scores [N, N]: scores[i, j] says how well music i goes with video j. N must be at least 2.

    `shifted` [N] are the scores of music i with video i moved in time.
    """
    count = len(scores)
    assert scores.shape == (count, count), scores.shape
    assert count >= 2, "a control needs a second video"
    scores = scores.astype(np.float64)  # in float32 a sum in another order can miss itself
    own = np.diag(scores)
    right = float(own.mean())
    random = np.random.default_rng(seed)
    orders = random.permuted(np.tile(np.arange(count), (permutations, 1)), axis=1)
    reached = int(np.sum(scores[np.arange(count), orders].mean(1) >= right - 1e-12))
    low, high = interval(own, seed)
    return Agreement(
        right=right,
        low=low,
        high=high,
        wrong=float((scores.sum() - own.sum()) / (count * (count - 1))),
        p_value=(reached + 1) / (permutations + 1),
        count=count,
        shifted=None if shifted is None else float(shifted.mean()),
        shifted_p_value=None if shifted is None else sign_flip_p(own - shifted, permutations, seed),
    )


def correlation_test(heard: np.ndarray, seen: np.ndarray, permutations: int, seed: int) -> Agreement:
    """Test Pearson's correlation of a figure of music i with one of video i, both [N].

    The interval is that of the correlation itself: of its products, as `permutation_test` would have it, it could
    reach above 1.
    """
    found = permutation_test(correlation_scores(heard, seen), permutations, seed)
    low, high = interval_of(lambda rows: pearson(heard[rows], seen[rows]), len(heard), seed)
    return replace(found, low=low, high=high)


def row(right: Agreement, ceiling: Agreement) -> dict[str, Any]:
    """A measure as metrics.json has it: the agreement of generated music beside that of the real music.

    `ceiling` is what the real music reaches. `trustworthy` says whether the measure finds in the real music that it
    goes with its video (p at most 0.01): one that does not can say nothing of generated music either.
    """
    return asdict(right) | {
        "ceiling": ceiling.right,
        "ceiling_low": ceiling.low,
        "ceiling_high": ceiling.high,
        "ceiling_p_value": ceiling.p_value,
        "ceiling_shifted_p_value": ceiling.shifted_p_value,
        "trustworthy": ceiling.p_value <= EVIDENCE,
    }


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How well music i goes with video j, [N, N], for generated and for real music; [N] each with its own one moved."""

    generated: np.ndarray
    real: np.ndarray
    generated_shifted: np.ndarray | None = None
    real_shifted: np.ndarray | None = None

    def turned(self) -> "Scores":
        """How well video i goes with music j."""
        return replace(self, generated=self.generated.T, real=self.real.T)


def compare(scores: Scores, permutations: int, seed: int) -> dict[str, Any]:
    """The row of a measure: both kinds of music tested alike."""
    return row(
        permutation_test(scores.generated, permutations, seed, shifted=scores.generated_shifted),
        permutation_test(scores.real, permutations, seed, shifted=scores.real_shifted),
    )


def equal_scores(heard: list[str], seen: list[str]) -> np.ndarray:
    """1 where the class heard in music i is that of video j, else 0: [N, N]."""
    return (np.array(heard)[:, None] == np.array(seen)[None]).astype(float)


def correlation_scores(heard: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Products of standard scores [N, N]: their mean over the diagonal is Pearson's correlation."""
    return np.outer(_standard(heard), _standard(seen))


def tempo_scores(heard: np.ndarray, seen: np.ndarray, tolerance: float) -> np.ndarray:
    """1 where tempo i lies within `tolerance` (a share) of tempo j, of its half or its double: [N, N]."""
    ratio = heard[:, None] / seen[None]
    near = [np.abs(ratio / octave - 1) <= tolerance for octave in (0.5, 1.0, 2.0)]
    return np.any(near, axis=0).astype(float)


def _standard(values: np.ndarray) -> np.ndarray:
    spread = values.std()
    return (values - values.mean()) / spread if spread > 0 else np.zeros_like(values)
