"""One decoding step of all blocks, run by every thread of a team at once.

Each thread computes its share of a layer's outputs, or of the heads; between layers they wait for each other.
Legend: N rows, D width, F feed-forward width, H heads, P places of the cache, M places of memory, K codebooks.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from v2meow.generate.native.dots import BFLOAT16, FLOAT32, INT8, OUTS, tile
from v2meow.generate.native.draw import draw
from v2meow.generate.native.maths import FAST, attend, gelu, normalise, turn
from v2meow.generate.native.team import meet
from v2meow.model.patterns import UNKNOWN

QKV, OUT, QUERY, CROSS_OUT, UP, DOWN = range(6)  # of a block's matrices
_F32_4, _F32_2, _F32_1 = tile(4, OUTS // 2, FLOAT32), tile(2, OUTS, FLOAT32), tile(1, OUTS, FLOAT32)
_BF16_4, _BF16_2, _BF16_1 = tile(4, OUTS // 2, BFLOAT16), tile(2, OUTS, BFLOAT16), tile(1, OUTS, BFLOAT16)
_INT8_4, _INT8_2, _INT8_1 = tile(4, OUTS // 2, INT8), tile(2, OUTS, INT8), tile(1, OUTS, INT8)
_BYTES = (4, 2, 1)  # of a weight, by kind


class Plan(NamedTuple):
    """All that a step reads and writes. Widths of buffers are those of weights: padded.

    `weights` are addresses [blocks + 1, 6], the last line that of the head; `scales` [blocks + 1, 6, O] are those of
    int8 weights. `cos` and `sin` are [steps, D / H], `table` [K * (bins + 1), D].
    """

    kind: int
    heads: int
    cross: bool
    weights: np.ndarray
    scales: np.ndarray
    qkv_bias: np.ndarray
    query_bias: np.ndarray
    table: np.ndarray
    cos: np.ndarray
    sin: np.ndarray
    cache: np.ndarray  # [blocks, N, 2, H, P, D / H]
    memory: np.ndarray  # [blocks, N, 2, H, M, D / H]
    arrived: np.ndarray  # see `meet`
    x: np.ndarray  # [N, D]
    normed: np.ndarray  # [threads, N, D]
    qkv: np.ndarray  # [N, 3 D]
    mixed: np.ndarray  # [N, D]
    wide: np.ndarray  # [N, F]
    narrow: np.ndarray  # [N, D]
    shares: np.ndarray  # [threads, P or M]
    query: np.ndarray  # [threads, D / H]
    logits: np.ndarray  # [N, K * bins]
    guided: np.ndarray  # [threads, bins]
    # What a `State` carries from step to step:
    sequence: np.ndarray
    numbers: np.ndarray
    step: np.ndarray
    offset: np.ndarray
    owner: np.ndarray
    heard: np.ndarray
    copies: np.ndarray
    shares_of_copies: np.ndarray
    # How codes are drawn:
    temperature: float
    top_k: int
    top_p: float


def meetings(plan: Plan) -> int:
    """How often the threads of a team meet in a step."""
    return len(plan.cache) * (8 if plan.cross else 5) + 3


def compiled(function: Callable[..., Any]) -> Any:
    """The function compiled on first use, and kept on disk where there is a place for it."""
    try:
        return njit(nogil=True, cache=True, fastmath=FAST)(function)
    except RuntimeError:  # nothing is writable: neither the package, nor a home
        return njit(nogil=True, fastmath=FAST)(function)


@compiled
def step(parts, requests, rows, met, thread, threads):
    """The next code of every codebook, for the first `requests` requests, which have the first `rows` rows.

    `parts` are a plan's, as a plain tuple: Numba takes a named one for a new type to look up, every time, for a
    millisecond. `met` is how often the team has met before.
    """
    plan = Plan(*parts)
    heads, normed = plan.heads, plan.normed[thread]
    head_width = plan.cos.shape[1]
    width = heads * head_width
    first, last = _share(rows, thread, threads)
    for row in range(first, last):
        request = plan.owner[row]
        _embed(plan.sequence[request, plan.step[request]], plan.table, plan.x[row])
    met = meet(plan.arrived, met, threads)
    first, last = _share(rows * heads, thread, threads)
    for block in range(len(plan.cache)):
        weights, scales = plan.weights[block], plan.scales[block]
        _normalise_all(plan.x, rows, width, normed)
        _project(plan.kind, weights[QKV], scales[QKV], normed, rows, plan.qkv, thread, threads)
        met = meet(plan.arrived, met, threads)
        for item in range(first, last):
            row, head = item // heads, item % heads
            at = plan.step[plan.owner[row]]
            place = plan.offset[plan.owner[row]] + at
            cos, sin = plan.cos[at], plan.sin[at]
            where, bias = slice(head * head_width, (head + 1) * head_width), plan.qkv_bias[block]
            parts = plan.qkv[row, : 3 * width].reshape(3, width)
            _add(parts[0, where], bias[:width][where])
            _add(parts[1, where], bias[width : 2 * width][where])
            _add(parts[2, where], bias[2 * width :][where])
            keys, values = plan.cache[block, row, 0, head], plan.cache[block, row, 1, head]
            turn(parts[0, where], cos, sin, plan.query[thread])
            turn(parts[1, where], cos, sin, keys[place])
            values[place] = parts[2, where]
            seen = place + 1
            attend(plan.query[thread], keys[:seen], values[:seen], plan.shares[thread], plan.mixed[row, where])
        met = meet(plan.arrived, met, threads)
        _project_and_add(plan.kind, weights[OUT], scales[OUT], plan.mixed, rows, plan.narrow, plan.x, thread, threads)
        met = meet(plan.arrived, met, threads)
        if plan.cross:
            _normalise_all(plan.x, rows, width, normed)
            _project(plan.kind, weights[QUERY], scales[QUERY], normed, rows, plan.narrow, thread, threads)
            met = meet(plan.arrived, met, threads)
            for item in range(first, last):
                row, head = item // heads, item % heads
                where, seen = slice(head * head_width, (head + 1) * head_width), plan.heard[row]
                at = plan.step[plan.owner[row]]
                _add(plan.narrow[row, where], plan.query_bias[block, where])
                turn(plan.narrow[row, where], plan.cos[at], plan.sin[at], plan.query[thread])
                keys, values = plan.memory[block, row, 0, head, :seen], plan.memory[block, row, 1, head, :seen]
                attend(plan.query[thread], keys, values, plan.shares[thread], plan.mixed[row, where])
            met = meet(plan.arrived, met, threads)
            _project_and_add(
                plan.kind, weights[CROSS_OUT], scales[CROSS_OUT], plan.mixed, rows, plan.narrow, plan.x, thread, threads
            )
            met = meet(plan.arrived, met, threads)
        _normalise_all(plan.x, rows, width, normed)
        _project(plan.kind, weights[UP], scales[UP], normed, rows, plan.wide, thread, threads)
        _activate(plan.wide, rows, thread, threads)
        met = meet(plan.arrived, met, threads)
        _project_and_add(plan.kind, weights[DOWN], scales[DOWN], plan.wide, rows, plan.narrow, plan.x, thread, threads)
        met = meet(plan.arrived, met, threads)
    _normalise_all(plan.x, rows, width, normed)
    _project(plan.kind, plan.weights[-1, 0], plan.scales[-1, 0], normed, rows, plan.logits, thread, threads)
    met = meet(plan.arrived, met, threads)
    levels = plan.sequence.shape[2]
    first, last = _share(requests * levels, thread, threads)
    for item in range(first, last):
        _draw(plan, item // levels, item % levels, plan.guided[thread])
    meet(plan.arrived, met, threads)


@njit(inline="always")
def _share(count, thread, threads):
    """This thread's part of `count` items."""
    return count * thread // threads, count * (thread + 1) // threads


@njit(fastmath=FAST)
def _draw(plan, request, level, logits):
    """One code into the sequence, unless it is known: the copies' logits are added up as guidance has it."""
    at, bins = plan.step[request], len(logits)
    if plan.sequence[request, at + 1, level] != UNKNOWN:
        return
    for i in range(bins):
        logits[i] = np.float32(0)
    for copy in range(plan.copies.shape[1]):
        share = plan.shares_of_copies[request, copy, 0, 0]
        if share != 0:
            row = plan.logits[plan.copies[request, copy], level * bins :]
            for i in range(bins):
                logits[i] += share * row[i]
    number = plan.numbers[request, at, level]
    plan.sequence[request, at + 1, level] = draw(logits, plan.temperature, plan.top_k, plan.top_p, number)


@njit(fastmath=FAST)
def _embed(codes, table, out):
    """The sum of a row's embeddings; each codebook has its own part of the table."""
    entries = len(table) // len(codes)
    width = table.shape[1]
    for i in range(width):
        out[i] = np.float32(0)
    for k in range(len(codes)):
        entry = table[k * entries + codes[k]]
        for i in range(width):
            out[i] += entry[i]


@njit(fastmath=FAST)
def _add(x, y):
    for i in range(len(x)):
        x[i] += y[i]


@njit
def _normalise_all(x, rows, width, out):
    """Every thread normalises all rows for itself: sooner done than waited for."""
    for row in range(rows):
        normalise(x[row, :width], out[row, :width])


@njit(fastmath=FAST)
def _activate(x, rows, thread, threads):
    """GELU over this thread's share of columns, those that it has just computed."""
    first, last = _columns(x, thread, threads)
    for row in range(rows):
        for i in range(first, last):
            x[row, i] = gelu(x[row, i])


@njit(fastmath=FAST)
def _project_and_add(kind, weights, scales, x, rows, y, total, thread, threads):
    """total += x times the weights, by way of y."""
    _project(kind, weights, scales, x, rows, y, thread, threads)
    first, last = _columns(y, thread, threads)
    for row in range(rows):
        for i in range(first, last):
            total[row, i] += y[row, i]


@njit(inline="always")
def _columns(y, thread, threads):
    """This thread's columns of y, in whole tiles."""
    first, last = _share(y.shape[1] // OUTS, thread, threads)
    return first * OUTS, last * OUTS


@njit(fastmath=FAST)
def _project(kind, weights, scales, x, rows, y, thread, threads):
    """y [N, O] = x [N, I] times weights [O, I] at an address: this thread's columns of y."""
    first, last = _columns(y, thread, threads)
    wide, tall, line = x.shape[1], y.shape[1], x.shape[1] * _BYTES[kind]
    x_line, y_line = 4 * wide, 4 * tall
    for out in range(first, last, OUTS):
        at, from_x, to_y = weights + out * line, x.ctypes.data, y.ctypes.data + 4 * out
        left = rows
        while left >= 4:
            for half in range(0, OUTS, OUTS // 2):
                _dots_4(kind, at + half * line, wide, from_x, to_y + 4 * half, tall)
            from_x, to_y, left = from_x + 4 * x_line, to_y + 4 * y_line, left - 4
        if left >= 2:
            _dots_2(kind, at, wide, from_x, to_y, tall)
            from_x, to_y, left = from_x + 2 * x_line, to_y + 2 * y_line, left - 2
        if left:
            _dots_1(kind, at, wide, from_x, to_y, tall)
    if kind == INT8:
        for row in range(rows):
            for i in range(first, last):
                y[row, i] *= scales[i]


@njit
def _dots_4(kind, weights, wide, x, y, tall):
    if kind == FLOAT32:
        _F32_4(weights, wide, x, wide, y, tall, wide)
    elif kind == BFLOAT16:
        _BF16_4(weights, wide, x, wide, y, tall, wide)
    else:
        _INT8_4(weights, wide, x, wide, y, tall, wide)


@njit
def _dots_2(kind, weights, wide, x, y, tall):
    if kind == FLOAT32:
        _F32_2(weights, wide, x, wide, y, tall, wide)
    elif kind == BFLOAT16:
        _BF16_2(weights, wide, x, wide, y, tall, wide)
    else:
        _INT8_2(weights, wide, x, wide, y, tall, wide)


@njit
def _dots_1(kind, weights, wide, x, y, tall):
    if kind == FLOAT32:
        _F32_1(weights, wide, x, wide, y, tall, wide)
    elif kind == BFLOAT16:
        _BF16_1(weights, wide, x, wide, y, tall, wide)
    else:
        _INT8_1(weights, wide, x, wide, y, tall, wide)
