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
_AHEAD = 32 * 1024  # bytes that weights are asked for before they are needed: a few tiles

_BITS = {FLOAT32: 32, BFLOAT16: 16, INT8: 8}
_FLOAT, _WORD, _BYTE = ir.FloatType(), ir.IntType(64), ir.IntType(8)
_VECTOR, _INTEGERS = ir.VectorType(_FLOAT, LANES), ir.VectorType(ir.IntType(32), LANES)


def tile(rows: int, outs: int, kind: int) -> Any:
    """A function (weights, their width, x, its width, y, its width, width) of addresses and numbers of elements.

    It writes y[r, o] = sum of x[r] * weights[o] for r < rows and o < outs; `width` is a multiple of LANES.
    """

    @intrinsic
    def dot(_: Any, weights: Any, weights_width: Any, x: Any, x_width: Any, y: Any, y_width: Any, width: Any) -> Any:
        def generate(context: Any, builder: Any, _: Any, places: tuple[ir.Value, ...]) -> ir.Value:
            _emit(builder, rows, outs, kind, *places)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), generate

    return dot


def _emit(
    builder: Any,
    rows: int,
    outs: int,
    kind: int,
    weights: ir.Value,
    weights_width: ir.Value,
    x: ir.Value,
    x_width: ir.Value,
    y: ir.Value,
    y_width: ir.Value,
    width: ir.Value,
) -> None:
    """One loop over `width`, a vector of sums for each product, and a sum over each vector at the end."""
    module, before = builder.module, builder.block
    multiply_add = _declare(module, "llvm.fma.v16f32", _VECTOR, [_VECTOR] * 3)
    add_up = _declare(module, "llvm.vector.reduce.fadd.v16f32", _FLOAT, [_FLOAT, _VECTOR])
    loop, after = builder.append_basic_block("tile"), builder.append_basic_block("tile.end")
    builder.branch(loop)
    builder.position_at_end(loop)
    column = builder.phi(_WORD)
    column.add_incoming(_word(0), before)
    sums = [builder.phi(_VECTOR) for _ in range(rows * outs)]
    read = [_weights(builder, kind, _at(builder, weights, weights_width, o, column, _BITS[kind])) for o in range(outs)]
    for r in range(rows):
        part = _load(builder, _at(builder, x, x_width, r, column, 32), _VECTOR, 4)
        for o in range(outs):
            total = sums[r * outs + o]
            total.add_incoming(ir.Constant(_VECTOR, [0.0] * LANES), before)
            total.add_incoming(builder.call(multiply_add, [part, read[o], total]), loop)
    following = builder.add(column, _word(LANES))
    column.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, width), loop, after)
    builder.position_at_end(after)
    for number, total in enumerate(sums):
        full = next(value for value, block in total.incomings if block is loop)
        found = builder.call(add_up, [ir.Constant(_FLOAT, -0.0), full], fastmath=("reassoc",))
        place = _at(builder, y, y_width, number // outs, _word(number % outs), 32)
        builder.store(found, builder.inttoptr(place, _FLOAT.as_pointer()), align=4)


def _weights(builder: Any, kind: int, address: ir.Value) -> ir.Value:
    """A vector of weights as float32. What comes _AHEAD is fetched meanwhile: rows are too short for the hardware."""
    prefetch = _declare(builder.module, "llvm.prefetch.p0", ir.VoidType(), [_BYTE.as_pointer()] + [ir.IntType(32)] * 3)
    ahead = builder.inttoptr(builder.add(address, _word(_AHEAD)), _BYTE.as_pointer())
    builder.call(prefetch, [ahead, *(ir.Constant(ir.IntType(32), value) for value in (0, 3, 1))])  # to read, keep, data
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
