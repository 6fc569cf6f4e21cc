"""A thread's share of the heads: turned by their positions, kept in the cache, and attended with.

An item is a head of a row, `heads` of them a row. Legend: D width, H heads, P places of the cache, M places of memory.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numba import float32, njit, uint16, uint32

from v2meow.generate.native import attention
from v2meow.generate.native.attention import IN_LINE
from v2meow.generate.native.dots import BFLOAT16, FLOAT32
from v2meow.generate.native.maths import FAST, add, exp_of_negative, turn
from v2meow.generate.native.vectors import LANES, LINE


class Scratch(NamedTuple):
    """A thread's own, for one head."""

    shares: np.ndarray  # [P or more, a multiple of LANES]
    highest: np.ndarray  # [LANES]
    mixed: np.ndarray  # [D / H or more, as many as there are in whole lines]


def _of_kind(kind: int) -> Any:
    """A function that does as `attend` for one kind of keys and values, and returns the sum to divide by."""
    score, numbers, at_once = attention.score(kind), attention.numbers_of(kind), attention.WIDEST[kind]
    mix, mix_one = attention.mix(kind, at_once), attention.mix(kind, 1)

    @njit(**FAST)
    def attend_to(query, keys, values, places, lines, shares, highest, out, ahead):
        apart, from_shares = lines * LINE, shares.ctypes.data
        for lane in range(LANES):
            highest[lane] = float32(-math.inf)
        for p in range(0, places, LANES):
            kept = from_shares + 4 * p, highest.ctypes.data
            score(query, keys + p * apart, kept[0], kept[1], values + p * apart, lines, places - p)
        top, total = float32(-math.inf), float32(0)
        for lane in range(LANES):
            top = max(top, highest[lane])
        for p in range((places + LANES - 1) // LANES * LANES):
            shares[p] = exp_of_negative(shares[p] - top)
            total += shares[p]
        line = 0
        while line < lines:
            to_out, fetched = out.ctypes.data + line * numbers, ahead + line * places * LINE
            if lines - line >= at_once:
                mix(values + line * LINE, from_shares, to_out, fetched, places, lines)
                line += at_once
            else:
                mix_one(values + line * LINE, from_shares, to_out, fetched, places, lines)
                line += 1
        return total

    return attend_to


_to_floats, _to_halves = _of_kind(FLOAT32), _of_kind(BFLOAT16)


@njit(**FAST)
def attend(halves, query, keys, values, places, lines, scratch, ahead, out):
    """Attention of a query [D / H or more], which is overwritten, to places of `lines` cache lines, into out [D / H].

    Keys and values are addresses, in bfloat16 with `halves`. They are read up to a multiple of LANES places. Values
    are fetched while keys are read, and what is `ahead` while values are: there are too few of each for the hardware
    to see what comes.
    """
    scale = float32(1) / math.sqrt(float32(len(out)))
    for i in range(len(out)):
        query[i] *= scale
    shares, highest, mixed, at = scratch.shares, scratch.highest, scratch.mixed, query.ctypes.data
    if halves:
        total = _to_halves(at, keys, values, places, lines, shares, highest, mixed, ahead)
    else:
        total = _to_floats(at, keys, values, places, lines, shares, highest, mixed, ahead)
    share = float32(1) / total
    for i in range(len(out)):
        out[i] = mixed[i] * share


@njit
def keep(x, place, halves):
    """Write x [D / H] to a place of a cache, which is seen as numbers of 16 bits: as it is, or rounded to bfloat16."""
    bits = x.view(np.uint32)
    if halves:
        for i in range(len(x)):
            to_even = uint32(uint32(0x7FFF) + uint32(uint32(bits[i] >> uint32(16)) & uint32(1)))
            place[i] = uint16(uint32(bits[i] + to_even) >> uint32(16))
    else:
        whole = place.view(np.uint32)
        for i in range(len(x)):
            whole[i] = bits[i]


@njit(**FAST)
def attend_to_itself(plan, block, first, last, thread, after):
    """Self-attention of items `first` … `last` - 1, from `qkv` into `mixed`; their keys and values are kept.

    `after` is the address of what this thread reads next.
    """
    cache, scratch = plan.cache[block], _scratch(plan, thread)
    query, key = plan.turned[thread, 0], plan.turned[thread, 1]
    head_width = plan.cos.shape[1]
    width = plan.heads * head_width
    for item in range(first, last):
        row, head = item // plan.heads, item % plan.heads
        at, place = _time(plan, row)
        where, bias = slice(head * head_width, (head + 1) * head_width), plan.qkv_bias[block]
        parts = plan.qkv[row, : 3 * width].reshape(3, width)
        add(parts[0, where], bias[:width][where])
        add(parts[1, where], bias[width : 2 * width][where])
        add(parts[2, where], bias[2 * width :][where])
        turn(parts[0, where], plan.cos[at], plan.sin[at], query)
        turn(parts[1, where], plan.cos[at], plan.sin[at], key)
        keep(key[:head_width], cache[row, 0, head, place], plan.halves)
        keep(parts[2, where], cache[row, 1, head, place], plan.halves)
        ahead = _keys_of(plan, cache, item + 1) if item + 1 < last else after
        _attend(plan, cache, row, head, place + 1, query, scratch, ahead)


@njit(**FAST)
def attend_to_memory(plan, block, first, last, thread, after):
    """Cross-attention of items `first` … `last` - 1, from `narrow` into `mixed`."""
    memory, scratch, query = plan.memory[block], _scratch(plan, thread), plan.turned[thread, 0]
    head_width = plan.cos.shape[1]
    for item in range(first, last):
        row, head = item // plan.heads, item % plan.heads
        at, _ = _time(plan, row)
        where = slice(head * head_width, (head + 1) * head_width)
        add(plan.narrow[row, where], plan.query_bias[block, where])
        turn(plan.narrow[row, where], plan.cos[at], plan.sin[at], query)
        ahead = _keys_of(plan, memory, item + 1) if item + 1 < last else after
        _attend(plan, memory, row, head, plan.heard[row], query, scratch, ahead)


@njit(**FAST)
def first_keys(plan, block, first, last):
    """Address and bytes of the keys that items `first` … `last` - 1 read first; none if there are no items."""
    if first >= last:
        return 0, 0
    cache, (_, place) = plan.cache[block], _time(plan, first // plan.heads)
    return _keys_of(plan, cache, first), place * cache.shape[-1] // IN_LINE * LINE


@njit(inline="always")
def _keys_of(plan, cache, item):
    """Address of an item's keys."""
    return cache[item // plan.heads, 0, item % plan.heads].ctypes.data


@njit(inline="always")
def _time(plan, row):
    """The number of a row's step, and its place in the cache."""
    request = plan.owner[row]
    return plan.step[request], plan.offset[request] + plan.step[request]


@njit(inline="always")
def _scratch(plan, thread):
    return Scratch(plan.shares[thread], plan.highest[thread], plan.mixing[thread])


@njit(inline="always")
def _attend(plan, storage, row, head, places, query, scratch, ahead):
    """One head's attention to so many places of a block's cache or memory, into `mixed`."""
    head_width = plan.cos.shape[1]
    out = plan.mixed[row, head * head_width : (head + 1) * head_width]
    keys, values = storage[row, 0, head].ctypes.data, storage[row, 1, head].ctypes.data
    attend(plan.halves, query, keys, values, places, storage.shape[-1] // IN_LINE, scratch, ahead, out)
