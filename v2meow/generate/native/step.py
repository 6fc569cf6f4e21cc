"""One decoding step of all blocks, run by every thread of a team at once.

Each thread computes its share of a layer's outputs, or of the heads; between layers they wait for each other.
Legend: N rows, D width, F feed-forward width, H heads, P places of the cache, M places of memory, K codebooks.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from v2meow.generate.native.compiling import compiled, sources
from v2meow.generate.native.dots import AHEAD
from v2meow.generate.native.draw import draw
from v2meow.generate.native.heads import attend_to_itself, attend_to_memory, first_keys
from v2meow.generate.native.maths import FAST, activate, add, normalise
from v2meow.generate.native.products import Layer, Scratch, columns, project, share
from v2meow.generate.native.team import meet
from v2meow.model.patterns import UNKNOWN

QKV, OUT, QUERY, CROSS_OUT, UP, DOWN = range(6)  # of a block's matrices


class Plan(NamedTuple):
    """All that a step reads and writes. Widths of buffers are those of weights: padded.

    `feed_kind` is that of the matrices of feed-forward layers. `weights` are addresses [blocks + 1, 6], the last line
    that of the head, and `begins` [threads, blocks + 1, 6] those of each thread's share; `scales` and `offsets`
    [blocks + 1, 6, O] are those of int8 and int5 weights. `cos` and `sin` are [steps, D / H], `table`
    [K * (bins + 1), D]. The cache is seen as numbers of 16 bits: with `halves` they are float16, else halves of
    float32.
    """

    kind: int
    feed_kind: int
    heads: int
    cross: bool
    halves: bool
    weights: np.ndarray
    begins: np.ndarray
    scales: np.ndarray
    offsets: np.ndarray
    qkv_bias: np.ndarray
    query_bias: np.ndarray
    table: np.ndarray
    cos: np.ndarray
    sin: np.ndarray
    cache: np.ndarray  # [blocks, N, 2, H, P, numbers in whole vectors]
    memory: np.ndarray  # [blocks, N, 2, H, M, numbers in whole vectors]
    arrived: np.ndarray  # see `counters`
    x: np.ndarray  # [N, D]
    normed: np.ndarray  # [threads, N, D]
    qkv: np.ndarray  # [N, 3 D]
    mixed: np.ndarray  # [N, D]
    wide: np.ndarray  # [N, F]
    narrow: np.ndarray  # [N, D]
    shares: np.ndarray  # [threads, P or M]
    sums: np.ndarray  # [threads, N * OUTS * LANES]
    rounded: np.ndarray  # [threads, N * F]
    row_scales: np.ndarray  # [threads, N]
    unpacked: np.ndarray  # bytes [threads, OUTS * F * those of a number]; none where nothing is unpacked
    turned: np.ndarray  # [threads, 2, D / H in whole vectors]
    highest: np.ndarray  # [threads, LANES]
    mixing: np.ndarray  # [threads, D / H in whole vectors]
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


@njit(inline="always")  # what is compiled by itself is optimised once more in each that calls it
def _step(parts, requests, rows, met, thread, threads):
    """The next code of every codebook, for the first `requests` requests, which have the first `rows` rows.

    `parts` are a plan's, as a plain tuple: Numba takes a named one for a new type to look up, every time, for a
    millisecond. `met` is how often the team has met before.
    """
    plan = Plan(*parts)
    heads, normed, begins = plan.heads, plan.normed[thread], plan.begins[thread]
    scratch = _scratch(plan, thread)
    width = heads * plan.cos.shape[1]
    first, last = share(rows, thread, threads)
    for row in range(first, last):
        request = plan.owner[row]
        _embed(plan.sequence[request, plan.step[request]], plan.table, plan.x[row])
    met = meet(plan.arrived, met, threads)
    first, last = share(rows * heads, thread, threads)
    for block in range(len(plan.cache)):
        _normalise_all(plan.x, rows, width, normed)
        after = first_keys(plan, block, first, last)
        project(_layer(plan, block, QKV), normed, rows, plan.qkv, scratch, after, thread, threads)
        met = meet(plan.arrived, met, threads)
        attend_to_itself(plan, block, first, last, thread, begins[block, OUT])
        met = meet(plan.arrived, met, threads)
        after = _from(begins[block, QUERY if plan.cross else UP])
        _project_and_add(_layer(plan, block, OUT), plan.mixed, rows, plan, scratch, after, thread, threads)
        met = meet(plan.arrived, met, threads)
        if plan.cross:
            _normalise_all(plan.x, rows, width, normed)
            after = _from(begins[block, CROSS_OUT])
            project(_layer(plan, block, QUERY), normed, rows, plan.narrow, scratch, after, thread, threads)
            met = meet(plan.arrived, met, threads)
            attend_to_memory(plan, block, first, last, thread, begins[block, CROSS_OUT])
            met = meet(plan.arrived, met, threads)
            after = _from(begins[block, UP])
            _project_and_add(_layer(plan, block, CROSS_OUT), plan.mixed, rows, plan, scratch, after, thread, threads)
            met = meet(plan.arrived, met, threads)
        _normalise_all(plan.x, rows, width, normed)
        after = _from(begins[block, DOWN])
        project(_layer(plan, block, UP), normed, rows, plan.wide, scratch, after, thread, threads)
        activate(plan.wide, rows, *columns(plan.wide, thread, threads))
        met = meet(plan.arrived, met, threads)
        after = _from(begins[block + 1, QKV])  # or the head
        _project_and_add(_layer(plan, block, DOWN), plan.wide, rows, plan, scratch, after, thread, threads)
        met = meet(plan.arrived, met, threads)
    _normalise_all(plan.x, rows, width, normed)
    after = _from(begins[0, QKV])
    project(_layer(plan, -1, 0), normed, rows, plan.logits, scratch, after, thread, threads)
    met = meet(plan.arrived, met, threads)
    levels = plan.sequence.shape[2]
    first, last = share(requests * levels, thread, threads)
    for item in range(first, last):
        _draw(plan, item // levels, item % levels, plan.guided[thread])
    meet(plan.arrived, met, threads)


@njit(inline="always")
def _from(address):
    """What is read from there on, in types that are the same everywhere: `project` is compiled for each."""
    return np.int64(address), np.int64(AHEAD)


@njit(inline="always")
def _scratch(plan, thread):
    sums, rounded, scales = plan.sums[thread], plan.rounded[thread], plan.row_scales[thread]
    return Scratch(sums, rounded, scales, plan.unpacked[thread])


@njit(inline="always")
def _layer(plan, block, place):
    kind = plan.feed_kind if place in (UP, DOWN) else plan.kind
    return Layer(kind, plan.weights[block, place], plan.scales[block, place], plan.offsets[block, place])


@njit(**FAST)
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


@njit(**FAST)
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


@njit
def _normalise_all(x, rows, width, out):
    """Every thread normalises all rows for itself: sooner done than waited for."""
    for row in range(rows):
        normalise(x[row, :width], out[row, :width])


@njit(**FAST)
def _project_and_add(layer, x, rows, plan, scratch, after, thread, threads):
    """The plan's x += x times the weights, by way of `narrow`."""
    project(layer, x, rows, plan.narrow, scratch, after, thread, threads)
    first, last = columns(plan.narrow, thread, threads)
    for row in range(rows):
        add(plan.x[row, first:last], plan.narrow[row, first:last])


def _of(version: int) -> Any:
    """`_step`, to be kept on disk for this version of its parts."""

    @compiled
    def step(parts, requests, rows, met, thread, threads):
        if version >= 0:
            _step(parts, requests, rows, met, thread, threads)

    return step


step = _of(sources())
