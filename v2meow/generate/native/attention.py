"""Attention of one query to many places of a cache, as vector instructions.

Keys and values stand in whole vectors of LANES numbers, in float32 or in float16, which becomes float32 in registers.
Scores of 16 places become one vector at once; values are added up in registers over all places. So it is as fast as
keys and values come from memory.
"""

import math
from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from v2meow.generate.native import vectors
from v2meow.generate.native.dots import FLOAT32, SIZES
from v2meow.generate.native.vectors import FLOATS, HALVES, INTEGERS, LANES, LINE, WORD, word

AT_ONCE = 4  # vectors of a value that are mixed together: as many as most heads have
_SUMS = 8  # that are added up side by side at least: as many as an addition takes cycles, for both units


def bytes_of(kind: int) -> int:
    """Bytes of a vector of keys or values."""
    return LANES * SIZES[kind]


def _fused(builder: Any) -> ir.Function:
    return vectors.declare(builder.module, "llvm.fma.v16f32", FLOATS, [FLOATS] * 3)


class _Numbers:
    """How keys and values of one kind are read."""

    def __init__(self, context: Any, builder: Any, kind: int) -> None:
        self._context, self._builder, self._kind, self.bytes = context, builder, kind, bytes_of(kind)

    def load(self, address: ir.Value) -> ir.Value:
        """A vector of them in float32."""
        if self._kind == FLOAT32:
            return vectors.load(self._builder, address, FLOATS, 4)
        return vectors.from_float16(self._context, self._builder, vectors.load(self._builder, address, HALVES, 2))

    def fetch(self, address: ir.Value, count: int) -> None:
        """Ask for the lines of so many vectors."""
        vectors.fetch_lines(self._builder, address, -(-count * self.bytes // LINE))


def score(kind: int) -> Any:
    """A function (query, keys, scores, highest, ahead, size, left): the scores of LANES places of `size` vectors each.

    Of those beyond the first `left` they are minus infinity. `highest` [LANES] keeps the highest in each lane. As much
    as keys have is fetched from `ahead` on. All are addresses and numbers; the query is in float32.
    """

    @intrinsic
    def score(_: Any, query: Any, keys: Any, scores: Any, highest: Any, ahead: Any, size: Any, left: Any) -> Any:
        def generate(context: Any, builder: Any, _: Any, given: tuple[ir.Value, ...]) -> ir.Value:
            _emit_score(builder, _Numbers(context, builder, kind), *given)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), generate

    return score


def _emit_score(
    builder: Any,
    numbers: _Numbers,
    query: ir.Value,
    keys: ir.Value,
    scores: ir.Value,
    highest: ir.Value,
    ahead: ir.Value,
    size: ir.Value,
    left: ir.Value,
) -> None:
    """One loop over the vectors of a place, with a vector of sums for each of LANES places."""
    before, fused = builder.block, _fused(builder)
    loop, after = builder.append_basic_block("score"), builder.append_basic_block("score.end")
    apart = builder.mul(size, word(numbers.bytes))
    builder.branch(loop)
    builder.position_at_end(loop)
    vector = builder.phi(WORD)
    vector.add_incoming(word(0), before)
    totals = [builder.phi(FLOATS) for _ in range(LANES)]
    first = builder.mul(vector, word(numbers.bytes))
    numbers.fetch(builder.add(ahead, builder.mul(first, word(LANES))), LANES)
    of_query = vectors.load(builder, builder.add(query, builder.mul(vector, word(4 * LANES))), FLOATS, 4)
    for number, total in enumerate(totals):
        total.add_incoming(vectors.nought(FLOATS), before)
        of_key = numbers.load(builder.add(keys, builder.add(builder.mul(apart, word(number)), first)))
        total.add_incoming(builder.call(fused, [of_query, of_key, total]), loop)
    following = builder.add(vector, word(1))
    vector.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, size), loop, after)
    builder.position_at_end(after)
    (sums,) = vectors.sums(builder, [total.incomings[1][0] for total in totals])
    lanes = ir.Constant(INTEGERS, list(range(LANES)))
    inside = builder.icmp_signed("<", lanes, vectors.spread(builder, builder.trunc(left, ir.IntType(32))))
    sums = builder.select(inside, sums, ir.Constant(FLOATS, [-math.inf] * LANES))
    builder.store(sums, builder.inttoptr(scores, FLOATS.as_pointer()), align=4)
    kept = builder.inttoptr(highest, FLOATS.as_pointer())
    so_far = builder.load(kept, align=4)
    builder.store(builder.select(builder.fcmp_ordered(">", sums, so_far), sums, so_far), kept, align=4)


def mix(kind: int, count: int) -> Any:
    """A function (values, shares, out, ahead, places, size): the sum of so many places' shares of `count` vectors.

    `size` vectors a place are apart; `out` is written in float32. As much as is read is fetched from `ahead` on. All
    are addresses and numbers.
    """

    @intrinsic
    def mix(_: Any, values: Any, shares: Any, out: Any, ahead: Any, places: Any, size: Any) -> Any:
        def generate(context: Any, builder: Any, _: Any, given: tuple[ir.Value, ...]) -> ir.Value:
            _Mixing(builder, _Numbers(context, builder, kind), count, *given).emit()
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    return mix


class _Mixing:
    """A loop over some places at a time, with sums for each of them, and one over those that are left."""

    def __init__(
        self,
        builder: Any,
        numbers: _Numbers,
        count: int,
        values: ir.Value,
        shares: ir.Value,
        out: ir.Value,
        ahead: ir.Value,
        places: ir.Value,
        size: ir.Value,
    ) -> None:
        self._builder, self._numbers, self._count = builder, numbers, count
        self._values, self._shares, self._out, self._ahead, self._places = values, shares, out, ahead, places
        self._apart = builder.mul(size, word(numbers.bytes))

    def emit(self) -> None:
        """Emit both, and write the sums."""
        builder, together = self._builder, max(1, _SUMS // self._count)
        nought: list[ir.Value] = [vectors.nought(FLOATS)] * self._count
        whole = builder.sub(self._places, builder.urem(self._places, word(together)))
        by_place = self._loop(word(0), whole, [nought] * together)
        totals = [_sum(builder, parts) for parts in zip(*by_place, strict=True)]
        (totals,) = self._loop(whole, self._places, [totals])
        for number, total in enumerate(totals):
            place = builder.add(self._out, word(number * 4 * LANES))
            builder.store(total, builder.inttoptr(place, FLOATS.as_pointer()), align=4)

    def _loop(self, first: ir.Value, end: ir.Value, start: Sequence[Sequence[ir.Value]]) -> list[list[ir.Value]]:
        """Add places first … end - 1, as many at a time as there are sums to `start` from; the sums."""
        builder, fused, numbers = self._builder, _fused(self._builder), self._numbers
        before, step = builder.block, word(len(start))
        loop, after = builder.append_basic_block("mix"), builder.append_basic_block("mix.end")
        builder.cbranch(builder.icmp_signed("<", first, end), loop, after)
        builder.position_at_end(loop)
        place = builder.phi(WORD)
        place.add_incoming(first, before)
        sums, found = [[builder.phi(FLOATS) for _ in part] for part in start], []
        fetched = builder.add(self._ahead, builder.mul(place, word(self._count * numbers.bytes)))
        numbers.fetch(fetched, self._count * len(start))
        for number, (totals, begun) in enumerate(zip(sums, start, strict=True)):
            at = builder.add(place, word(number))
            share = vectors.load(builder, builder.add(self._shares, builder.mul(at, word(4))), ir.FloatType(), 4)
            share, value = vectors.spread(builder, share), builder.add(self._values, builder.mul(at, self._apart))
            found.append([])
            for vector, (total, one) in enumerate(zip(totals, begun, strict=True)):
                part = numbers.load(builder.add(value, word(vector * numbers.bytes)))
                total.add_incoming(one, before)
                found[-1].append(builder.call(fused, [share, part, total]))
                total.add_incoming(found[-1][-1], loop)
        following = builder.add(place, step)
        place.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, end), loop, after)
        builder.position_at_end(after)
        ends = [[builder.phi(FLOATS) for _ in part] for part in start]
        for last, begun, made in zip(ends, start, found, strict=True):
            for total, one, other in zip(last, begun, made, strict=True):
                total.add_incoming(one, before)
                total.add_incoming(other, loop)
        return ends


def _sum(builder: Any, parts: Sequence[ir.Value]) -> ir.Value:
    total = parts[0]
    for part in parts[1:]:
        total = builder.fadd(total, part)
    return total
