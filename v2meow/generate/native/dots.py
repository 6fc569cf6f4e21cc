"""Tiles of dot products as vector instructions, for weights of 32, 16, 8 or 5 bits.

A tile multiplies a few rows of activations with a few rows of weights: every weight that was read is used for all
rows, every activation for all weights. What is left to a compiler's own vectorizer here is less than half as fast.
Each product is summed in the same order in every tile, so a row comes out the same, bit for bit, in any company.

Weights of 8 bits meet activations of 8 bits, four products an instruction where the processor has AVX512-VNNI. Their
sums are exact, so they are the same on every processor. Weights of 5 bits become weights of 8 bits in registers.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from v2meow.generate.native import packed, vectors
from v2meow.generate.native.vectors import BYTE, FLOATS, HALVES, INTEGERS, LANES, LINE, WORD, word

FLOAT32, FLOAT16, BFLOAT16, INT8, INT5 = range(5)  # kinds of weights; for those of 5 bits see `packed`
SIZES = (4, 2, 2, 1)  # bytes of a weight that is not packed, by kind
STRIDES = (LANES, LANES, LANES, LINE, packed.BLOCK)  # columns at a time, by kind: rows are padded to multiples of it
OUTS = 8  # rows of weights a tile; weights are padded to multiples of it
# Of a tile, where more than one follows with the same weights: both stay in a near cache.
COLUMNS = (512, 512, 512, 2048, 2048)
AHEAD = 128 * 1024  # bytes that weights are fetched before they are needed: more than a tile's
OFFSET = 128  # is added to activations of 8 bits: the instruction takes them without a sign


def lines(outs: int, kind: int, passes: int, stride: int | None = None) -> int:
    """Cache lines that each step of a tile's loop fetches, so that `passes` over a tile fetch as much as it holds."""
    size = packed.BLOCK_BYTES if kind == INT5 else (stride or STRIDES[kind]) * SIZES[kind]
    return -(-outs * size // (LINE * passes))


def tile(rows: int, outs: int, kind: int, fetched: int, *, stride: int | None = None, plain: bool = False) -> Any:
    """A function (weights, x, y, sums, ahead, width, y's width, first, end) of addresses and numbers of columns.

    It adds x[r] * weights[o] over the columns first … end - 1, multiples of the stride, to the sums for r < rows and
    o < outs. `sums` [rows, outs, LANES] carries them over from one call to the next: the call that begins at column 0
    begins at nought, and the one that ends at `width` writes the sum of each to y[r, o]. Each step of the loop fetches
    `fetched` cache lines, one after the other from `ahead` on.

    x and y are float32, but with INT8 and INT5 x is uint8 and y int32, and with INT8 `stride` may be less than
    STRIDES[INT8]. `plain`: without instructions that not all processors have.
    """

    @intrinsic
    def dot(
        _: Any, weights: Any, x: Any, y: Any, sums: Any, ahead: Any, width: Any, y_width: Any, first: Any, end: Any
    ) -> Any:
        def generate(context: Any, builder: Any, _: Any, places: tuple[ir.Value, ...]) -> ir.Value:
            arithmetic = _Arithmetic(context, builder, kind, stride or STRIDES[kind], plain=plain)
            _emit(builder, arithmetic, rows, outs, fetched, *places)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), generate

    return dot


def widen(kind: int) -> Any:
    """A function (weights, out) of addresses: LANES weights of 16 bits as float32."""

    @intrinsic
    def vector(_: Any, weights: Any, out: Any) -> Any:
        def generate(context: Any, builder: Any, _: Any, places: tuple[ir.Value, ir.Value]) -> ir.Value:
            found = _of_halves(context, builder, kind, places[0], plain=False)
            builder.store(found, builder.inttoptr(places[1], FLOATS.as_pointer()), align=4)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    return vector


def _of_halves(context: Any, builder: Any, kind: int, address: ir.Value, *, plain: bool) -> ir.Value:
    """LANES weights of 16 bits as float32."""
    halves = vectors.load(builder, address, HALVES, 2)
    if kind == FLOAT16:
        return vectors.from_float16(context, builder, halves, plain=plain)
    shifted = builder.shl(builder.zext(halves, INTEGERS), ir.Constant(INTEGERS, [16] * LANES))
    return builder.bitcast(shifted, FLOATS)  # bfloat16 is the upper half of a float32


class _Arithmetic:
    """How weights of one kind are read, multiplied and added up."""

    def __init__(self, context: Any, builder: Any, kind: int, stride: int, *, plain: bool) -> None:
        self._context, self._builder, self._kind, self.stride, self._plain = context, builder, kind, stride, plain
        self._vnni = vectors.has(context, "avx512vnni", "avx512vl") and not plain  # bytes four at a time
        self._bytes = kind in (INT8, INT5)
        self._at_once = min(stride, LINE) if self._bytes else LANES  # columns a vector
        self.total = ir.VectorType(ir.IntType(32), self._at_once // 4) if self._bytes else FLOATS

    def weights(self, matrix: ir.Value, width: ir.Value, row: int, column: ir.Value) -> list[ir.Value]:
        """Those of a step of the loop, as float32 unless they are bytes."""
        builder = self._builder
        if self._kind == INT5:
            block = builder.lshr(
                builder.add(builder.mul(width, word(row)), column), word(packed.BLOCK.bit_length() - 1)
            )
            address = builder.add(matrix, builder.mul(block, word(packed.BLOCK_BYTES)))
            return packed.halves(self._context, builder, address, plain=self._plain)
        address = vectors.at(builder, matrix, width, row, column, SIZES[self._kind])
        if self._kind in (FLOAT16, BFLOAT16):
            return [_of_halves(self._context, builder, self._kind, address, plain=self._plain)]
        return [self._load(address)]

    def x(self, matrix: ir.Value, width: ir.Value, row: int, column: ir.Value) -> list[ir.Value]:
        """As many activations."""
        builder, size = self._builder, 1 if self._bytes else 4
        address = vectors.at(builder, matrix, width, row, column, size)
        parts = range(0, self.stride * size, self._at_once * size)
        return [self._load(builder.add(address, word(first))) for first in parts]

    def _load(self, address: ir.Value) -> ir.Value:
        if self._bytes:
            return vectors.load(self._builder, address, ir.VectorType(BYTE, self._at_once), 1)
        return vectors.load(self._builder, address, FLOATS, 4)

    def multiply_add(self, x: list[ir.Value], weights: list[ir.Value], total: ir.Value) -> ir.Value:
        """The total with the products added, wherever in it."""
        for some, others in zip(x, weights, strict=True):
            total = self._add(some, others, total)
        return total

    def _add(self, x: ir.Value, weights: ir.Value, total: ir.Value) -> ir.Value:
        builder = self._builder
        if not self._bytes:
            fused = vectors.declare(builder.module, "llvm.fma.v16f32", FLOATS, [FLOATS] * 3)
            return builder.call(fused, [x, weights, total])
        if self._vnni:
            name, kind = f"llvm.x86.avx512.vpdpbusd.{8 * self._at_once}", self.total
            four_at_once = vectors.declare(builder.module, name, kind, [kind] * 3)
            return builder.call(four_at_once, [total, builder.bitcast(x, kind), builder.bitcast(weights, kind)])
        for first in range(0, self._at_once, self.total.count):
            part = range(first, first + self.total.count)
            unsigned = builder.zext(vectors.lanes(builder, x, None, part), self.total)
            signed = builder.sext(vectors.lanes(builder, weights, None, part), self.total)
            total = builder.add(total, builder.mul(unsigned, signed))
        return total


def _emit(
    builder: Any,
    arithmetic: _Arithmetic,
    rows: int,
    outs: int,
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
    at_once = next(count for count in (8, 4, 2) if outs >= count)
    runs = [(r, 0, at_once) for r in range(rows)] + [
        (r, at_once, outs - at_once) for r in range(rows) if outs > at_once
    ]
    cells = [(r, o + number) for r, o, count in runs for number in range(count)]
    kept = [
        builder.inttoptr(builder.add(sums, word(LINE * number)), arithmetic.total.as_pointer())
        for number in range(len(cells))
    ]
    begins, nought = builder.icmp_signed("==", first, word(0)), vectors.nought(arithmetic.total)
    so_far = [builder.select(begins, nought, builder.load(place, align=4)) for place in kept]
    before = builder.block
    loop, after = builder.append_basic_block("tile"), builder.append_basic_block("tile.end")
    builder.branch(loop)
    builder.position_at_end(loop)
    column, line = builder.phi(WORD), builder.phi(WORD)
    column.add_incoming(first, before)
    line.add_incoming(ahead, before)
    totals = [builder.phi(arithmetic.total) for _ in cells]
    vectors.fetch_lines(builder, line, fetched)
    read = [arithmetic.weights(weights, width, o, column) for o in range(outs)]
    parts = [arithmetic.x(x, width, r, column) for r in range(rows)]
    found = []
    for total, (r, o), start in zip(totals, cells, so_far, strict=True):
        total.add_incoming(start, before)
        found.append(arithmetic.multiply_add(parts[r], read[o], total))
        total.add_incoming(found[-1], loop)
    following = builder.add(column, word(arithmetic.stride))
    column.add_incoming(following, loop)
    line.add_incoming(builder.add(line, word(fetched * LINE)), loop)
    builder.cbranch(builder.icmp_signed("<", following, end), loop, after)
    builder.position_at_end(after)
    with builder.if_else(builder.icmp_signed("<", end, width)) as (goes_on, ends):
        with goes_on:
            for total, place in zip(found, kept, strict=True):
                builder.store(total, place, align=4)
        with ends:
            sums_in_order, number = vectors.sums(builder, found), 0
            for r, o, count in runs:  # neighbours in y
                some = [number % LANES + lane for lane in range(count)]
                part = vectors.lanes(builder, sums_in_order[number // LANES], None, some)
                place = vectors.at(builder, y, y_width, r, word(o), 4)
                builder.store(
                    part, builder.inttoptr(place, ir.VectorType(arithmetic.total.element, count).as_pointer()), align=4
                )
                number += count
