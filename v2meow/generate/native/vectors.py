"""LLVM instructions on vectors of LANES numbers, of which tiles are made."""

import math
from collections.abc import Sequence
from typing import Any

from llvmlite import ir

LANES = 16  # numbers of 32 bits a vector
LINE = 64  # bytes of a cache line, and of a vector

WORD, BYTE = ir.IntType(64), ir.IntType(8)
FLOATS, INTEGERS = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(ir.IntType(32), LANES)
HALVES = ir.VectorType(ir.IntType(16), LANES)  # of whatever has 16 bits


def word(value: int) -> ir.Constant:
    """A constant of 64 bits."""
    return ir.Constant(WORD, value)


def nought(kind: ir.VectorType) -> ir.Constant:
    """A vector of zeros."""
    return ir.Constant(kind, None)


def declare(module: ir.Module, name: str, result: ir.Type, arguments: Sequence[ir.Type]) -> ir.Function:
    """A function that LLVM knows by name."""
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(result, arguments), name)


def at(builder: Any, base: ir.Value, width: ir.Value, row: int, column: ir.Value, size: int) -> ir.Value:
    """Address of an element of `size` bytes of a matrix whose rows are `width` elements apart."""
    element = builder.add(builder.mul(width, word(row)), column)
    return builder.add(base, builder.mul(element, word(size)))


def load(builder: Any, address: ir.Value, kind: ir.Type, align: int) -> ir.Value:
    """What stands at an address."""
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=align)


def lanes(builder: Any, one: Any, other: Any, numbers: Sequence[int]) -> ir.Value:
    """Those lanes of a vector, or of two, the `other` one behind it."""
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(numbers)), list(numbers))
    return builder.shuffle_vector(one, ir.Constant(one.type, None) if other is None else other, mask)


def has(context: Any, *features: str) -> bool:
    """Whether the processor that is compiled for has all these instructions, by LLVM's names."""
    return {f"+{feature}" for feature in features} <= set(context.codegen().magic_tuple()[2].split(","))


def from_float16(context: Any, builder: Any, halves: ir.Value, *, plain: bool = False) -> ir.Value:
    """HALVES that are float16 as FLOATS, exactly; `plain`: without the instruction for it, which not all have."""
    if has(context, "f16c") and not plain:
        return builder.fpext(builder.bitcast(halves, ir.VectorType(ir.HalfType(), LANES)), FLOATS)
    bits = builder.zext(halves, INTEGERS)
    sign = builder.shl(builder.and_(bits, _all(0x8000)), _all(16))
    # Exponent and fraction where float32 has them: too small by the difference of the biases, subnormal numbers too.
    size = builder.shl(builder.and_(bits, _all(0x7FFF)), _all(13))
    grown = builder.fmul(builder.bitcast(size, FLOATS), ir.Constant(FLOATS, [math.ldexp(1, 112)] * LANES))
    endless = builder.icmp_unsigned(">=", size, _all(0x1F << 23))
    found = builder.or_(builder.bitcast(grown, INTEGERS), builder.select(endless, _all(0xFF << 23), _all(0)))
    return builder.bitcast(builder.or_(found, sign), FLOATS)


def _all(value: int) -> ir.Constant:
    return ir.Constant(INTEGERS, [value] * LANES)


def spread(builder: Any, value: ir.Value) -> ir.Value:
    """A vector that has a number in all lanes."""
    kind = ir.VectorType(value.type, LANES)  # type: ignore[attr-defined]
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return lanes(builder, one, one, [0] * LANES)


def sums(builder: Any, vectors: Sequence[ir.Value]) -> list[ir.Value]:
    """The sum over each of `vectors` of LANES numbers or fewer, LANES sums to a vector.

    Two vectors become one, which holds half of either's sums, until all lanes are of different vectors: a third of the
    instructions of summing each by itself.
    """
    kind = vectors[0].type  # type: ignore[attr-defined]
    add = builder.fadd if kind == FLOATS else builder.add
    if kind.count < LANES:
        behind = [min(lane, kind.count) for lane in range(LANES)]  # all lanes behind are of a vector of zeros
        vectors = [lanes(builder, vector, nought(kind), behind) for vector in vectors]
    parts = [*vectors, *[nought(vectors[0].type)] * (-len(vectors) % LANES)]  # type: ignore[attr-defined]
    width = LANES
    while width > 1:
        firsts = [lane for lane in range(2 * LANES) if lane % width < width // 2]
        pairs = zip(parts[::2], parts[1::2], strict=True)
        halves = (
            [lanes(builder, a, b, [lane + half for lane in firsts]) for half in (0, width // 2)] for a, b in pairs
        )
        parts = [add(low, high) for low, high in halves]
        width //= 2
    return parts


def fetch_lines(builder: Any, address: ir.Value, count: int) -> None:
    """Ask for so many cache lines, as far as the second cache: in the first they would push out what is in use."""
    prefetch = declare(builder.module, "llvm.prefetch.p0", ir.VoidType(), [BYTE.as_pointer()] + [ir.IntType(32)] * 3)
    how = [ir.Constant(ir.IntType(32), value) for value in (0, 2, 1)]  # to read; kept in the second cache; data
    for number in range(count):
        place = builder.inttoptr(builder.add(address, word(number * LINE)), BYTE.as_pointer())
        builder.call(prefetch, [place, *how])
