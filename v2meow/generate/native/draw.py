"""Drawing codes, as `generate.sampling` does, from one row of logits at a time."""

import math

import numpy as np
from numba import float32, float64, njit

from v2meow.generate.native.maths import FAST, exp_of_negative


@njit(**FAST)
def draw(logits, temperature, top_k, top_p, number):
    """A code from logits [bins], which are overwritten by chances, and a uniform number."""
    bins, lowest, highest = len(logits), float32(-math.inf), float32(-math.inf)
    if 0 < top_k < bins:
        lowest = _ranked(logits.copy(), bins - top_k)
    for i in range(bins):
        highest = max(highest, logits[i])
    for i in range(bins):
        kept = logits[i] >= lowest
        chance = exp_of_negative((logits[i] - highest) / temperature)
        logits[i] = chance if kept else float32(0)
    if top_p < 1:
        _keep_nucleus(logits, top_p)
    total = float64(0)
    for i in range(bins):
        total += logits[i]
    reached, goal = float64(0), float64(number) * total
    for i in range(bins):
        reached += logits[i]
        if reached >= goal:
            return i
    return bins - 1


@njit(**FAST)
def _ranked(values, rank):
    """The value that would stand at `rank` if `values`, which are rearranged, were sorted: Hoare's selection.

    NumPy's own takes five seconds to compile.
    """
    low, high = 0, len(values) - 1
    while low < high:
        pivot, i, j = values[(low + high) // 2], low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i, j = i + 1, j - 1
        if rank <= j:
            high = j
        elif rank >= i:
            low = i
        else:
            break
    return values[rank]


@njit(**FAST)
def _keep_nucleus(chances, top_p):
    """Put all but the likeliest, which reach `top_p` of the whole together, to nought."""
    ranked, whole = np.sort(chances), float64(0)
    for i in range(len(ranked)):
        whole += ranked[i]
    above, place = float64(0), len(ranked) - 1
    while place > 0 and above + ranked[place] < top_p * whole:
        above += ranked[place]
        place -= 1
    for i in range(len(chances)):
        if chances[i] < ranked[place]:
            chances[i] = float32(0)
