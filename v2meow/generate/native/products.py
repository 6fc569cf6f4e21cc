"""Rows of activations times a layer's weights, shared among the threads of a team, tile by tile."""

from typing import Any

from numba import njit

from v2meow.generate.native.dots import AHEAD, BFLOAT16, COLUMNS, FLOAT32, INT8, LANES, OUTS, lines, tile
from v2meow.generate.native.maths import FAST

GROUP = 4  # rows that go through a tile together where there are more than two: buffers have whole groups of rows
_WIDE, _NARROW = 6, 2  # outputs of a tile for a group: as many sums as there are registers for; and what shares leave
_OFTEN = 3  # groups from which on each fetches but its part
_BYTES = (4, 2, 1)  # of a weight, by kind


def _tiles(kind: int) -> tuple[Any, ...]:
    """For 1 row, 2 rows, a group that fetches all, one that fetches its part, and the outputs that are left."""
    return (
        tile(1, OUTS, kind, lines(OUTS, kind, 1)),
        tile(2, OUTS, kind, lines(OUTS, kind, 1)),
        tile(GROUP, _WIDE, kind, lines(_WIDE, kind, 1)),
        tile(GROUP, _WIDE, kind, lines(_WIDE, kind, _OFTEN)),
        tile(GROUP, _NARROW, kind, lines(_NARROW, kind, 1)),
    )


def _of_kind(float32: Any, bfloat16: Any, int8: Any) -> Any:
    """One function of the three, which are chosen from when it is called."""

    @njit
    def product(kind, weights, x, y, sums, ahead, wide, tall, first, end):
        if kind == FLOAT32:
            float32(weights, x, y, sums, ahead, wide, tall, first, end)
        elif kind == BFLOAT16:
            bfloat16(weights, x, y, sums, ahead, wide, tall, first, end)
        else:
            int8(weights, x, y, sums, ahead, wide, tall, first, end)

    return product


_one, _two, _all, _part, _left = map(_of_kind, _tiles(FLOAT32), _tiles(BFLOAT16), _tiles(INT8))


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
def project(kind, weights, scales, x, rows, y, sums, thread, threads):
    """y [N, O] = x [N, I] times weights [O, I] at an address: this thread's columns of y.

    One or two rows go through tiles of their own. More go through in groups, and y's rows beyond the last are
    overwritten. `sums` [N * _WIDE * LANES or more] is scratch.
    """
    first, last = columns(y, thread, threads)
    wide, tall, line = x.shape[1], y.shape[1], x.shape[1] * _BYTES[kind]
    groups = (rows + GROUP - 1) // GROUP
    out = first
    while out < last:
        at, to_y = weights + out * line, y.ctypes.data + 4 * out
        if rows <= 2:
            if rows == 1:
                _one(kind, at, x.ctypes.data, to_y, sums.ctypes.data, at + AHEAD, wide, tall, 0, wide)
            else:
                _two(kind, at, x.ctypes.data, to_y, sums.ctypes.data, at + AHEAD, wide, tall, 0, wide)
            out += OUTS
        else:
            outs = _WIDE if last - out >= _WIDE else _NARROW
            _many(kind, groups, outs, at, x.ctypes.data, to_y, sums.ctypes.data, wide, tall)
            out += outs
    if kind == INT8:
        for row in range(rows):
            for i in range(first, last):
                y[row, i] *= scales[i]


@njit
def _many(kind, groups, outs, weights, x, y, sums, wide, tall):
    """One tile of weights with all groups of rows, a few columns at a time if there are several groups.

    Together the groups fetch as much of what comes AHEAD as the tile itself holds, evenly: memory is never idle.
    """
    at_once, size = wide if groups == 1 else COLUMNS, outs * wide * _BYTES[kind]
    done = 0
    for first in range(0, wide, at_once):
        end = min(first + at_once, wide)
        for group in range(groups):
            from_x, to_y = x + 4 * GROUP * group * wide, y + 4 * GROUP * group * tall
            kept = sums + 4 * LANES * GROUP * _WIDE * group
            ahead = weights + AHEAD + size * done // (wide * groups)
            if outs == _NARROW:
                _left(kind, weights, from_x, to_y, kept, ahead, wide, tall, first, end)
            elif groups < _OFTEN:
                _all(kind, weights, from_x, to_y, kept, ahead, wide, tall, first, end)
            else:
                _part(kind, weights, from_x, to_y, kept, ahead, wide, tall, first, end)
            done += end - first
