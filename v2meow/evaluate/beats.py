"""Events in time: where a curve peaks, and how many of two lists of times meet. Pure functions on arrays.

Knows nothing of what the curves are: onsets of notes, cuts or movement of a picture.
Legend: N curves of F values at `rate` Hz.
"""

import numpy as np

from v2meow.evaluate.resampling import pearson

TOLERANCE_S = 0.1  # within which an event of the picture and one of the music are felt as one
_HIGHEST_S = 0.06  # on either side, over which a peak is the highest value
_AROUND_S = 0.5  # on either side, over whose mean it rises
_RISE = 0.5  # by how many standard deviations of the whole curve


def peaks(strength: np.ndarray, rate: float, floor: float = 1e-3) -> np.ndarray:
    """Times in seconds at which the curve `strength` [F] peaks; value i stands at i / rate.

    A peak is the highest value about itself, and well above the mean about it (after Böck, Krebs & Schedl 2012,
    "Evaluating the online capabilities of onset detection methods", section 2.3); nothing below `floor` is one.
    """
    if len(strength) < 2:
        return np.zeros(0)
    near, around = max(1, round(_HIGHEST_S * rate)), max(1, round(_AROUND_S * rate))
    highest = _windows(strength, near, np.nan).T
    is_highest = strength >= np.nanmax(highest, axis=0)
    mean = np.nanmean(_windows(strength, around, np.nan), axis=1)
    rises = strength > mean + _RISE * strength.std() + 1e-9  # more than rounding: a constant never rises
    found = np.flatnonzero(is_highest & rises & (strength >= floor))
    first = np.diff(found, prepend=-len(strength)) > near  # of a plateau only its beginning
    return found[first] / rate


def matches(times: np.ndarray, others: np.ndarray, tolerance: float = TOLERANCE_S) -> int:
    """How many pairs of two ascending lists of times, none used twice, lie within `tolerance` of each other.

    Taking the earliest that fits gives the most pairs that there can be, as times lie on a line.
    """
    i = j = pairs = 0
    while i < len(times) and j < len(others):
        apart = times[i] - others[j]
        if abs(apart) <= tolerance:
            pairs, i, j = pairs + 1, i + 1, j + 1
        elif apart > 0:
            j += 1
        else:
            i += 1
    return pairs


def f_measure(heard: np.ndarray, seen: np.ndarray, tolerance: float = TOLERANCE_S) -> float:
    """Harmonic mean of the shares of events heard and of events seen that have a partner; 0 where there are none."""
    total = len(heard) + len(seen)
    return 2 * matches(heard, seen, tolerance) / total if total else 0.0


def f_scores(heard: list[np.ndarray], seen: list[np.ndarray], tolerance: float = TOLERANCE_S) -> np.ndarray:
    """`f_measure` of music i with picture j: [N, N]."""
    plain = [each.tolist() for each in seen]  # numbers of Python are compared several times faster than NumPy's
    return np.array([[f_measure(music, each, tolerance) for each in plain] for music in (h.tolist() for h in heard)])


def moved(times: np.ndarray, by: float, seconds: float) -> np.ndarray:
    """Times in 0 … `seconds` moved on by `by` seconds; what leaves at the end comes in at the beginning."""
    return np.sort((times + by) % seconds)


def correlations(heard: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Pearson's correlation over time of curve i of `heard` with curve j of `seen`, [N, F] each: [N, N]."""
    return np.stack([pearson(curve[None], seen) for curve in heard])


def smoothed(curves: np.ndarray, rate: float, seconds: float) -> np.ndarray:
    """Curves [N, F] averaged over a Hann window of `seconds`; at the ends over what there is of it."""
    width = max(1, round(seconds * rate)) | 1
    window = np.hanning(width + 2)[1:-1]
    weight = np.convolve(np.ones(curves.shape[1]), window, "same")
    return np.stack([np.convolve(curve, window, "same")[: curves.shape[1]] for curve in curves]) / weight


def _windows(curve: np.ndarray, reach: int, fill: float) -> np.ndarray:
    """[F, 2 reach + 1]: what lies up to `reach` values before and after each."""
    padded = np.pad(curve.astype(float), reach, constant_values=fill)
    return np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
