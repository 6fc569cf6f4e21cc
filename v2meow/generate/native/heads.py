"""A thread's share of the heads: turned by their positions, kept in the cache, and attended with.

An item is a head of a row, `heads` of them a row. Legend: D width, H heads, P places of the cache, M places of memory.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numba import float32, njit

from v2meow.generate.native import attention
from v2meow.generate.native.attention import AT_ONCE, bytes_of
from v2meow.generate.native.dots import FLOAT16, FLOAT32, SIZES
from v2meow.generate.native.maths import FAST, add, exp_of_negative, to_float16, turn
from v2meow.generate.native.vectors import LANES


class Scratch(NamedTuple):
    """A thread's own, for one head."""

    shares: np.ndarray  # [P or more, a multiple of LANES]
    highest: np.ndarray  # [LANES]
    mixed: np.ndarray  # [D / H or more, a multiple of LANES]


def _of_kind(kind: int) -> Any:
    """A function that does as `attend` for one kind of keys and values, and returns the sum to divide by."""
    score, vector = attention.score(kind), bytes_of(kind)
    mix_one, mix_two, mix_three, mix_four = (attention.mix(kind, count) for count in range(1, AT_ONCE + 1))

    @njit(**FAST)
    def attend_to(query, keys, values, places, size, shares, highest, out, ahead):
        apart, from_shares = size * vector, shares.ctypes.data
        for lane in range(LANES):
            highest[lane] = float32(-math.inf)
        for p in range(0, places, LANES):
            kept = from_shares + 4 * p, highest.ctypes.data
            score(query, keys + p * apart, kept[0], kept[1], values + p * apart, size, places - p)
        top, total = float32(-math.inf), float32(0)
        for lane in range(LANES):
            top = max(top, highest[lane])
        for p in range((places + LANES - 1) // LANES * LANES):
            shares[p] = exp_of_negative(shares[p] - top)
            total += shares[p]
        for first in range(0, size, AT_ONCE):
            read, to_out = values + first * vector, out.ctypes.data + first * 4 * LANES
            fetched, count = ahead + first * vector * places, min(AT_ONCE, size - first)
            if count == 4:
                mix_four(read, from_shares, to_out, fetched, places, size)
            elif count == 3:
                mix_three(read, from_shares, to_out, fetched, places, size)
            elif count == 2:
                mix_two(read, from_shares, to_out, fetched, places, size)
            else:
                mix_one(read, from_shares, to_out, fetched, places, size)
        return total

    return attend_to


_to_floats, _to_halves = _of_kind(FLOAT32), _of_kind(FLOAT16)


@njit(**FAST)
def attend(halves, query, keys, values, places, size, scratch, ahead, out):
    """Attention of a query [D / H or more], which is overwritten, to places of `size` vectors, into out [D / H].

    Keys and values are addresses, in float16 with `halves`. They are read up to a multiple of LANES places. Values
    are fetched while keys are read, and what is `ahead` while values are: there are too few of each for the hardware
    to see what comes.
    """
    scale = float32(1) / math.sqrt(float32(len(out)))
    for i in range(len(out)):
        query[i] *= scale
    shares, highest, mixed, at = scratch.shares, scratch.highest, scratch.mixed, query.ctypes.data
    if halves:
        total = _to_halves(at, keys, values, places, size, shares, highest, mixed, ahead)
    else:
        total = _to_floats(at, keys, values, places, size, shares, highest, mixed, ahead)
    share = float32(1) / total
    for i in range(len(out)):
        out[i] = mixed[i] * share


@njit
def keep(x, place, halves):
    """Write x [D / H] to a place of a cache, which is seen as numbers of 16 bits: as it is, or rounded to float16."""
    bits = x.view(np.uint32)
    if halves:
        for i in range(len(x)):
            place[i] = to_float16(bits[i])
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
        return np.int64(0), np.int64(0)
    cache, (_, place) = plan.cache[block], _time(plan, first // plan.heads)
    return np.int64(_keys_of(plan, cache, first)), np.int64(place * cache.shape[-1] * SIZES[FLOAT16])


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
    vectors = storage.shape[-1] // (LANES if plan.halves else 2 * LANES)
    attend(plan.halves, query, keys, values, places, vectors, scratch, ahead, out)
