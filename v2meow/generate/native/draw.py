"""Drawing codes, as `generate.sampling` does, from one row of logits at a time."""

import math

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
    heap, whole = chances.copy(), float64(0)
    for i in range(len(heap) // 2 - 1, -1, -1):
        _sink(heap, i, len(heap))
    for i in range(len(heap)):
        whole += chances[i]
    above, left = float64(0), len(heap)
    while left > 1 and above + heap[0] < top_p * whole:
        above += heap[0]
        left -= 1
        heap[0] = heap[left]
        _sink(heap, 0, left)
    for i in range(len(chances)):
        if chances[i] < heap[0]:
            chances[i] = float32(0)


@njit(**FAST)
def _sink(heap, place, count):
    """Let the number at `place` sink in a heap of `count`, whose largest comes first, until none below is larger.

    NumPy's sort takes seconds to compile, and here a few of the largest are all that is wanted.
    """
    while True:
        child = 2 * place + 1
        if child + 1 < count and heap[child + 1] > heap[child]:
            child += 1
        if child >= count or heap[child] <= heap[place]:
            return
        heap[place], heap[child] = heap[child], heap[place]
        place = child
