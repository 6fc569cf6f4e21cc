"""Attention of one query to many places of a cache, as vector instructions.

Keys and values stand in whole cache lines, in float32 or in bfloat16, which becomes float32 in registers: its even
numbers by a shift, its odd ones by a mask, without moving any from lane to lane. Scores of 16 places become one vector
at once; values are added up in registers over all places. So it is as fast as keys and values come from memory.
"""

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from v2meow.generate.native import vectors
from v2meow.generate.native.dots import BFLOAT16, FLOAT32
from v2meow.generate.native.vectors import FLOATS, INTEGERS, LANES, LINE, WORD, word

IN_LINE = LINE // 2  # numbers of 16 bits, as which a cache is passed on whatever it holds
WIDEST = {FLOAT32: 4, BFLOAT16: 2}  # lines of values that are mixed together: as many as most heads have
_UPPER = -(1 << 16)  # the bits of a float32 that are a bfloat16


def _line(builder: Any, address: ir.Value, kind: int) -> list[ir.Value]:
    """A cache line of keys or values as vectors of float32."""
    if kind == FLOAT32:
        return [vectors.load(builder, address, FLOATS, 4)]
    pairs = vectors.load(builder, address, INTEGERS, 4)
    even = builder.shl(pairs, ir.Constant(INTEGERS, [16] * LANES))
    odd = builder.and_(pairs, ir.Constant(INTEGERS, [_UPPER] * LANES))
    return [builder.bitcast(even, FLOATS), builder.bitcast(odd, FLOATS)]


def _in_line(builder: Any, address: ir.Value, kind: int) -> list[ir.Value]:
    """As many numbers that stand in float32, arranged as those of a line."""
    if kind == FLOAT32:
        return [vectors.load(builder, address, FLOATS, 4)]
    low, high = (vectors.load(builder, builder.add(address, word(half)), FLOATS, 4) for half in (0, LINE))
    return [vectors.lanes(builder, low, high, list(range(first, 2 * LANES, 2))) for first in (0, 1)]


def numbers_of(kind: int) -> int:
    """Bytes that the numbers of a line take in float32."""
    return LINE * (1 if kind == FLOAT32 else 2)


def _fused(builder: Any) -> ir.Function:
    return vectors.declare(builder.module, "llvm.fma.v16f32", FLOATS, [FLOATS] * 3)


def score(kind: int) -> Any:
    """A function (query, keys, scores, highest, ahead, lines, left): the scores of LANES places of `lines` each.

    Of those beyond the first `left` they are minus infinity. `highest` [LANES] keeps the highest in each lane. As many
    lines as keys have are fetched from `ahead` on. All are addresses and numbers.
    """

    @intrinsic
    def score(_: Any, query: Any, keys: Any, scores: Any, highest: Any, ahead: Any, lines: Any, left: Any) -> Any:
        def generate(context: Any, builder: Any, _: Any, given: tuple[ir.Value, ...]) -> ir.Value:
            _emit_score(builder, kind, *given)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), generate

    return score


def _emit_score(
    builder: Any,
    kind: int,
    query: ir.Value,
    keys: ir.Value,
    scores: ir.Value,
    highest: ir.Value,
    ahead: ir.Value,
    lines: ir.Value,
    left: ir.Value,
) -> None:
    """One loop over the lines of a place, with a vector of sums for each of LANES places."""
    before, fused = builder.block, _fused(builder)
    loop, after = builder.append_basic_block("score"), builder.append_basic_block("score.end")
    builder.branch(loop)
    builder.position_at_end(loop)
    line = builder.phi(WORD)
    line.add_incoming(word(0), before)
    totals = [builder.phi(FLOATS) for _ in range(LANES)]
    first = builder.mul(line, word(LINE))
    vectors.fetch_lines(builder, builder.add(ahead, builder.mul(first, word(LANES))), LANES)
    of_query = _in_line(builder, builder.add(query, builder.mul(line, word(numbers_of(kind)))), kind)
    for number, total in enumerate(totals):
        total.add_incoming(vectors.nought(FLOATS), before)
        place = builder.add(builder.mul(lines, word(number * LINE)), first)
        found: ir.Value = total
        for part, of_key in zip(of_query, _line(builder, builder.add(keys, place), kind), strict=True):
            found = builder.call(fused, [part, of_key, found])
        total.add_incoming(found, loop)
    following = builder.add(line, word(1))
    line.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, lines), loop, after)
    builder.position_at_end(after)
    ends = [total.incomings[1][0] for total in totals]
    (sums,) = vectors.sums(builder, ends)
    numbers = ir.Constant(INTEGERS, list(range(LANES)))
    inside = builder.icmp_signed("<", numbers, vectors.spread(builder, builder.trunc(left, ir.IntType(32))))
    sums = builder.select(inside, sums, ir.Constant(FLOATS, [-math.inf] * LANES))
    builder.store(sums, builder.inttoptr(scores, FLOATS.as_pointer()), align=4)
    kept = builder.inttoptr(highest, FLOATS.as_pointer())
    so_far = builder.load(kept, align=4)
    builder.store(builder.select(builder.fcmp_ordered(">", sums, so_far), sums, so_far), kept, align=4)


def mix(kind: int, count: int) -> Any:
    """A function (values, shares, out, ahead, places, lines): the sum of so many places' shares of `count` lines.

    `lines` a place are apart; `out` is written in float32. As many lines as are read are fetched from `ahead` on. All
    are addresses and numbers.
    """

    @intrinsic
    def mix(_: Any, values: Any, shares: Any, out: Any, ahead: Any, places: Any, lines: Any) -> Any:
        def generate(context: Any, builder: Any, _: Any, given: tuple[ir.Value, ...]) -> ir.Value:
            _emit_mix(builder, kind, count, *given)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    return mix


def _emit_mix(
    builder: Any,
    kind: int,
    count: int,
    values: ir.Value,
    shares: ir.Value,
    out: ir.Value,
    ahead: ir.Value,
    places: ir.Value,
    lines: ir.Value,
) -> None:
    """One loop over the places, with all sums in registers."""
    before, fused, each = builder.block, _fused(builder), 1 if kind == FLOAT32 else 2
    loop, after = builder.append_basic_block("mix"), builder.append_basic_block("mix.end")
    builder.branch(loop)
    builder.position_at_end(loop)
    place, value = builder.phi(WORD), builder.phi(WORD)
    place.add_incoming(word(0), before)
    value.add_incoming(values, before)
    totals = [builder.phi(FLOATS) for _ in range(count * each)]
    vectors.fetch_lines(builder, builder.add(ahead, builder.mul(place, word(count * LINE))), count)
    share = vectors.load(builder, builder.add(shares, builder.mul(place, word(4))), ir.FloatType(), 4)
    read = [part for line in range(count) for part in _line(builder, builder.add(value, word(line * LINE)), kind)]
    found = []
    for total, part in zip(totals, read, strict=True):
        total.add_incoming(vectors.nought(FLOATS), before)
        found.append(builder.call(fused, [vectors.spread(builder, share), part, total]))
        total.add_incoming(found[-1], loop)
    following = builder.add(place, word(1))
    place.add_incoming(following, loop)
    value.add_incoming(builder.add(value, builder.mul(lines, word(LINE))), loop)
    builder.cbranch(builder.icmp_signed("<", following, places), loop, after)
    builder.position_at_end(after)
    for number, total in enumerate(_in_order(builder, found, each)):
        builder.store(total, builder.inttoptr(builder.add(out, word(number * LINE)), FLOATS.as_pointer()), align=4)


def _in_order(builder: Any, totals: list[ir.Value], each: int) -> list[ir.Value]:
    """Vectors of even and of odd numbers as vectors of neighbours."""
    if each == 1:
        return totals
    turns = [[lane // 2 + LANES * (lane % 2) for lane in range(first, first + LANES)] for first in (0, LANES)]
    pairs = zip(totals[::2], totals[1::2], strict=True)
    return [vectors.lanes(builder, even, odd, turn) for even, odd in pairs for turn in turns]
