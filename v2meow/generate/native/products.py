"""Rows of activations times a layer's weights, shared among the threads of a team, tile by tile."""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from v2meow.generate.native import packed
from v2meow.generate.native.dots import (
    AHEAD,
    BFLOAT16,
    COLUMNS,
    FLOAT16,
    FLOAT32,
    INT5,
    INT8,
    OFFSET,
    OUTS,
    SIZES,
    STRIDES,
    lines,
    tile,
    widen,
)
from v2meow.generate.native.maths import FAST, round_rows, scale_back
from v2meow.generate.native.vectors import LANES

GROUP = 4  # rows that go through a tile together where there are more than two: buffers have whole groups of rows
_WIDE, _NARROW = 6, 2  # outputs of a tile for a group: as many sums as there are registers for; and what shares leave
_PACKED = 4  # outputs of a tile of packed weights, which take registers on their way, for a group
_HALF_A_LINE = 32  # bytes at a time for one row: whole lines, of which nothing else is wanted, come at 0.7 of the rate
_OFTEN = 3  # groups from which on each fetches but its part


class Layer(NamedTuple):
    """Weights [O, I] at an address.

    Of int8 and int5, `scales` [O] and `offsets` [O]: what OFFSET adds to each output's sum.
    """

    kind: int
    weights: int
    scales: np.ndarray
    offsets: np.ndarray


class Scratch(NamedTuple):
    """A thread's own: `sums` [N * _WIDE * LANES or more], for int8 rows as bytes and their scales, and a tile."""

    sums: np.ndarray
    rounded: np.ndarray  # [N * I]
    scales: np.ndarray  # [N]
    unpacked: np.ndarray  # bytes [_WIDE * I * 4, for int5 _WIDE * I]


def _tiles(kind: int) -> tuple[Any, ...]:
    """For 1 row, 2 rows, a group that fetches all, one that fetches its part, and the outputs that are left."""
    slower = _HALF_A_LINE if kind == INT8 else None
    few = tile(1, OUTS, kind, lines(OUTS, kind, 1, slower), stride=slower), tile(2, OUTS, kind, lines(OUTS, kind, 1))
    if kind == INT5:  # several groups meet them unpacked, and shares leave nothing
        return (*few, *[tile(GROUP, _PACKED, kind, lines(_PACKED, kind, 1))] * 3)
    return (
        *few,
        tile(GROUP, _WIDE, kind, lines(_WIDE, kind, 1)),
        tile(GROUP, _WIDE, kind, lines(_WIDE, kind, _OFTEN)),
        tile(GROUP, _NARROW, kind, lines(_NARROW, kind, 1)),
    )


def _of_kind(float32: Any, float16: Any, bfloat16: Any, int8: Any, int5: Any) -> Any:
    """One function of the five, which are chosen from when it is called."""

    @njit
    def product(kind, weights, x, y, sums, ahead, wide, tall, first, end):
        if kind == FLOAT32:
            float32(weights, x, y, sums, ahead, wide, tall, first, end)
        elif kind == FLOAT16:
            float16(weights, x, y, sums, ahead, wide, tall, first, end)
        elif kind == BFLOAT16:
            bfloat16(weights, x, y, sums, ahead, wide, tall, first, end)
        elif kind == INT8:
            int8(weights, x, y, sums, ahead, wide, tall, first, end)
        else:
            int5(weights, x, y, sums, ahead, wide, tall, first, end)

    return product


_one, _two, _all, _part, _left = map(_of_kind, *map(_tiles, (FLOAT32, FLOAT16, BFLOAT16, INT8, INT5)))

_from_float16, _from_bfloat16 = widen(FLOAT16), widen(BFLOAT16)


def whole_groups(rows: int) -> int:
    """Rows that buffers need."""
    return -(-rows // GROUP) * GROUP


@njit(inline="always")
def share(count, thread, threads):
    """This thread's part of `count` items."""
    return count * thread // threads, count * (thread + 1) // threads


@njit(inline="always")
def columns(y, thread, threads):
    """This thread's columns of y, a multiple of OUTS."""
    first, last = share(y.shape[1] // OUTS, thread, threads)
    return first * OUTS, last * OUTS


@njit(**FAST)
def project(layer, x, rows, y, scratch, after, thread, threads):
    """y [N, O] = x [N, I] times the layer's weights: this thread's columns of y.

    One or two rows go through tiles of their own. More go through in groups, and y's rows beyond the last are
    overwritten. `after` are the address and the bytes of what this thread reads next: with its last tiles, it fetches
    that.
    """
    stored, sums, groups = layer.kind, scratch.sums.ctypes.data, (rows + GROUP - 1) // GROUP
    unpacks = groups > 1 and stored != INT8 and stored != FLOAT32  # once for all groups
    kind = _unpacked(stored) if unpacks else stored
    first, last = columns(y, thread, threads)
    wide, tall = (x.shape[1] + STRIDES[stored] - 1) // STRIDES[stored] * STRIDES[stored], y.shape[1]
    from_x = x.ctypes.data
    if stored >= INT8:
        round_rows(x, rows, wide, OFFSET, scratch.rounded, scratch.scales)
        from_x = scratch.rounded.ctypes.data
    line = packed.line_bytes(wide) if stored == INT5 else wide * SIZES[stored]
    out, end = first, layer.weights + last * line
    while out < last:
        at, to_y = layer.weights + out * line, y.ctypes.data + 4 * out
        ahead = _ahead(at, end, after)
        outs = _outs(kind, rows, last - out)
        if unpacks:
            _unpack(stored, at, scratch.unpacked.ctypes.data, outs, line, wide)
            at = scratch.unpacked.ctypes.data
        if rows == 1:
            _one(kind, at, from_x, to_y, sums, ahead, wide, tall, 0, wide)
        elif rows == 2:
            _two(kind, at, from_x, to_y, sums, ahead, wide, tall, 0, wide)
        else:
            _many(kind, groups, outs, outs * line, at, from_x, to_y, sums, ahead, wide, tall)
        out += outs
    if stored >= INT8:
        scale_back(y, rows, first, last, layer.offsets, layer.scales, scratch.scales)


@njit(inline="always")
def _unpacked(kind):
    """The kind that weights are of when they have been unpacked."""
    return INT8 if kind == INT5 else FLOAT32


@njit
def _unpack(kind, weights, to, outs, line, wide):
    """A tile of `outs` lines as its weights are multiplied."""
    if kind == INT5:
        for number in range(outs):
            packed.unpack_line(weights + number * line, to + number * wide, wide)
    else:
        for first in range(0, outs * wide, LANES):
            if kind == FLOAT16:
                _from_float16(weights + 2 * first, to + 4 * first)
            else:
                _from_bfloat16(weights + 2 * first, to + 4 * first)


@njit(inline="always")
def _outs(kind, rows, left):
    """Outputs of the next tile, with so many left."""
    if rows <= 2:
        return OUTS
    if kind == INT5:
        return _PACKED
    return _WIDE if left >= _WIDE else _NARROW


@njit(inline="always")
def _ahead(at, end, after):
    """What is fetched while the tile at `at` is read: what comes AHEAD of it, or behind `end` of what comes after."""
    behind = at + AHEAD - end
    return at + AHEAD if behind < 0 else after[0] + min(behind, after[1])


@njit
def _many(kind, groups, outs, size, weights, x, y, sums, ahead, wide, tall):
    """One tile of weights with all groups of rows, a few columns at a time if there are several groups.

    Together the groups fetch as much from `ahead` on as the tile's `size` in memory, evenly: memory is never idle.
    """
    at_once = wide if groups == 1 else COLUMNS[kind]
    row = wide * (1 if kind >= INT8 else 4)  # bytes of x
    done = 0
    for first in range(0, wide, at_once):
        end = min(first + at_once, wide)
        for group in range(groups):
            from_x, to_y = x + GROUP * group * row, y + 4 * GROUP * group * tall
            kept = sums + 4 * LANES * GROUP * _WIDE * group
            line = ahead + size * done // (wide * groups)
            if outs == _NARROW:
                _left(kind, weights, from_x, to_y, kept, line, wide, tall, first, end)
            elif groups < _OFTEN:
                _all(kind, weights, from_x, to_y, kept, line, wide, tall, first, end)
            else:
                _part(kind, weights, from_x, to_y, kept, line, wide, tall, first, end)
            done += end - first
