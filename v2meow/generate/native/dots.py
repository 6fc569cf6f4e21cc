"""Tiles of dot products as vector instructions, for weights of 32, 16 or 8 bits.

A tile multiplies a few rows of activations with a few rows of weights: every weight that was read is used for all
rows, every activation for all weights. What is left to a compiler's own vectorizer here is less than half as fast.
Each product is summed in the same order in every tile, so a row comes out the same, bit for bit, in any company.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

FLOAT32, BFLOAT16, INT8 = 0, 1, 2  # kinds of weights
LANES = 16  # numbers a vector; rows of weights and activations are padded to multiples of it
OUTS = 8  # rows of weights a tile; weights are padded to multiples of it
COLUMNS = 512  # of a tile, where more than one follows with the same weights: both sides stay in the nearest cache
AHEAD = 128 * 1024  # bytes that weights are fetched before they are needed: more than a tile's

LINE = 64  # bytes of a cache line
_BITS = {FLOAT32: 32, BFLOAT16: 16, INT8: 8}
_FLOAT, _WORD, _BYTE = ir.FloatType(), ir.IntType(64), ir.IntType(8)
_VECTOR, _INTEGERS = ir.VectorType(_FLOAT, LANES), ir.VectorType(ir.IntType(32), LANES)


def lines(outs: int, kind: int, passes: int) -> int:
    """Cache lines that each step of a tile's loop fetches, so that `passes` over a tile fetch as much as it holds."""
    return -(-outs * LANES * _BITS[kind] // (8 * LINE * passes))


def tile(rows: int, outs: int, kind: int, fetched: int) -> Any:
    """A function (weights, x, y, sums, ahead, width, y's width, first, end) of addresses and numbers of columns.

    It adds x[r] * weights[o] over the columns first … end - 1, multiples of LANES, to the sums for r < rows and
    o < outs. `sums` [rows, outs, LANES] carries them over from one call to the next: the call that begins at column 0
    begins at nought, and the one that ends at `width` writes the sum of each to y[r, o]. Each step of the loop fetches
    `fetched` cache lines, one after the other from `ahead` on.
    """

    @intrinsic
    def dot(
        _: Any, weights: Any, x: Any, y: Any, sums: Any, ahead: Any, width: Any, y_width: Any, first: Any, end: Any
    ) -> Any:
        def generate(context: Any, builder: Any, _: Any, places: tuple[ir.Value, ...]) -> ir.Value:
            _emit(builder, rows, outs, kind, fetched, *places)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), generate

    return dot


def _fetch_a_line(_: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, _: Any, given: tuple[ir.Value]) -> ir.Value:
        _fetch(builder, given[0], 1)
        return context.get_dummy_value()

    return types.void(types.int64), generate


fetch: Any = intrinsic(_fetch_a_line)  # ask for the cache line at an address


def _emit(
    builder: Any,
    rows: int,
    outs: int,
    kind: int,
    fetched: int,
    weights: ir.Value,
    x: ir.Value,
    y: ir.Value,
    sums: ir.Value,
    ahead: ir.Value,
    width: ir.Value,
    y_width: ir.Value,
    first: ir.Value,
    end: ir.Value,
) -> None:
    """One loop over the columns, a vector of sums for each product, and a sum over each vector at the end."""
    module = builder.module
    multiply_add = _declare(module, "llvm.fma.v16f32", _VECTOR, [_VECTOR] * 3)
    at_once = next(count for count in (8, 4, 2) if outs >= count)
    runs = [(r, 0, at_once) for r in range(rows)] + [
        (r, at_once, outs - at_once) for r in range(rows) if outs > at_once
    ]
    cells = [(r, o + number) for r, o, count in runs for number in range(count)]
    kept = [
        builder.inttoptr(builder.add(sums, _word(4 * LANES * number)), _VECTOR.as_pointer())
        for number in range(len(cells))
    ]
    begins, nought = builder.icmp_signed("==", first, _word(0)), ir.Constant(_VECTOR, [0.0] * LANES)
    so_far = [builder.select(begins, nought, builder.load(place, align=4)) for place in kept]
    before = builder.block
    loop, after = builder.append_basic_block("tile"), builder.append_basic_block("tile.end")
    builder.branch(loop)
    builder.position_at_end(loop)
    column, line = builder.phi(_WORD), builder.phi(_WORD)
    column.add_incoming(first, before)
    line.add_incoming(ahead, before)
    totals = [builder.phi(_VECTOR) for _ in cells]
    _fetch(builder, line, fetched)
    read = [_weights(builder, kind, _at(builder, weights, width, o, column, _BITS[kind])) for o in range(outs)]
    parts = [_load(builder, _at(builder, x, width, r, column, 32), _VECTOR, 4) for r in range(rows)]
    found = []
    for total, (r, o), start in zip(totals, cells, so_far, strict=True):
        total.add_incoming(start, before)
        found.append(builder.call(multiply_add, [parts[r], read[o], total]))
        total.add_incoming(found[-1], loop)
    following = builder.add(column, _word(LANES))
    column.add_incoming(following, loop)
    line.add_incoming(builder.add(line, _word(fetched * LINE)), loop)
    builder.cbranch(builder.icmp_signed("<", following, end), loop, after)
    builder.position_at_end(after)
    with builder.if_else(builder.icmp_signed("<", end, width)) as (goes_on, ends):
        with goes_on:
            for total, place in zip(found, kept, strict=True):
                builder.store(total, place, align=4)
        with ends:
            sums_in_order, number = _sums(builder, found), 0
            for r, o, count in runs:  # neighbours in y
                lanes = [number % LANES + lane for lane in range(count)]
                part = builder.shuffle_vector(sums_in_order[number // LANES], ir.Constant(_VECTOR, None), _lanes(lanes))
                place = _at(builder, y, y_width, r, _word(o), 32)
                builder.store(part, builder.inttoptr(place, ir.VectorType(_FLOAT, count).as_pointer()), align=4)
                number += count


def _sums(builder: Any, vectors: Sequence[ir.Value]) -> list[ir.Value]:
    """The sum over each of `vectors`, LANES sums to a vector.

    Two vectors become one, which holds half of either's sums, until all lanes are of different vectors: a third of the
    instructions of summing each by itself.
    """
    parts = [*vectors, *[ir.Constant(_VECTOR, [0.0] * LANES)] * (-len(vectors) % LANES)]
    width = LANES
    while width > 1:
        firsts = [lane for lane in range(2 * LANES) if lane % width < width // 2]
        pairs = zip(parts[::2], parts[1::2], strict=True)
        halves = (
            [builder.shuffle_vector(a, b, _lanes([lane + half for lane in firsts])) for half in (0, width // 2)]
            for a, b in pairs
        )
        parts = [builder.fadd(low, high) for low, high in halves]
        width //= 2
    return parts


def _lanes(numbers: Sequence[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(numbers)), list(numbers))


def _fetch(builder: Any, address: ir.Value, count: int) -> None:
    """Ask for so many cache lines, as far as the second cache: in the first they would push out what is in use."""
    prefetch = _declare(builder.module, "llvm.prefetch.p0", ir.VoidType(), [_BYTE.as_pointer()] + [ir.IntType(32)] * 3)
    how = [ir.Constant(ir.IntType(32), value) for value in (0, 2, 1)]  # to read; kept in the second cache; data
    for number in range(count):
        place = builder.inttoptr(builder.add(address, _word(number * LINE)), _BYTE.as_pointer())
        builder.call(prefetch, [place, *how])


def _weights(builder: Any, kind: int, address: ir.Value) -> ir.Value:
    """A vector of weights as float32."""
    if kind == FLOAT32:
        return _load(builder, address, _VECTOR, 4)
    raw = _load(builder, address, ir.VectorType(ir.IntType(_BITS[kind]), LANES), _BITS[kind] // 8)
    if kind == BFLOAT16:  # the upper half of a float32
        shifted = builder.shl(builder.zext(raw, _INTEGERS), ir.Constant(_INTEGERS, [16] * LANES))
        return builder.bitcast(shifted, _VECTOR)
    return builder.sitofp(builder.sext(raw, _INTEGERS), _VECTOR)


def _at(builder: Any, base: ir.Value, width: ir.Value, row: int, column: ir.Value, bits: int) -> ir.Value:
    """Address of an element of a matrix whose rows are `width` elements apart."""
    element = builder.add(builder.mul(width, _word(row)), column)
    return builder.add(base, builder.mul(element, _word(bits // 8)))


def _load(builder: Any, address: ir.Value, kind: ir.Type, align: int) -> ir.Value:
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=align)


def _word(value: int) -> ir.Constant:
    return ir.Constant(_WORD, value)


def _declare(module: ir.Module, name: str, result: ir.Type, arguments: Sequence[ir.Type]) -> ir.Function:
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(result, arguments), name)
