"""Does the music go with its own video better than with other videos? A permutation test on any measure.

Pure functions on arrays. Legend: N pieces of music, each made for the video of the same number.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Mean score with the right video and with all wrong ones, and how likely chance does as well.

    `p_value` is one-sided: the share of random assignments of videos to music (the real one counted
    in) whose mean score reaches that of the right assignment.
    """

    right: float
    wrong: float
    p_value: float
    count: int


def permutation_test(scores: np.ndarray, permutations: int, seed: int) -> Agreement:
    """Test scores [N, N]: scores[i, j] says how well music i goes with video j. N must be at least 2."""
    count = len(scores)
    assert scores.shape == (count, count), scores.shape
    assert count >= 2, "a control needs a second video"
    right = float(np.mean(np.diag(scores)))
    random = np.random.default_rng(seed)
    orders = random.permuted(np.tile(np.arange(count), (permutations, 1)), axis=1)
    reached = int(np.sum(scores[np.arange(count), orders].mean(1) >= right - 1e-12))
    wrong = float((scores.sum() - np.trace(scores)) / (count * (count - 1)))
    return Agreement(right=right, wrong=wrong, p_value=(reached + 1) / (permutations + 1), count=count)


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
