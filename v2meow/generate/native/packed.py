"""Weights of 8 bits packed into 5: a sign and one of 16 magnitudes, which each group of 64 has at a size of its own.

Unpacked they are weights of 8 bits again, so all that computes with those computes with these: sums stay exact. A line
of weights, padded to whole blocks of 128, becomes one stretch of memory, block by block: the magnitudes (in each byte
that of a weight of the first half and, above it, of the second), then the signs, a bit each, then the size of each
half, a byte each.
"""

from concurrent.futures import ThreadPoolExecutor
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, register_jitable
from torch import Tensor

from v2meow.generate.native import vectors
from v2meow.generate.native.compiling import compiled, sources
from v2meow.generate.native.vectors import BYTE, WORD, word

GROUP, BLOCK = 64, 128  # weights that share a size, and that one cache line holds the magnitudes of
_SIZES, _MAGNITUDES = 128, 16
_SHARE = 64  # lines that a thread packs at a time
_TRIED = 32  # steps to the largest weight of a group, in which sizes about it are tried
_SIGNS_AT, _SIZES_AT = BLOCK // 2, BLOCK // 2 + BLOCK // 8  # in a block, behind its magnitudes
BLOCK_BYTES = _SIZES_AT + BLOCK // GROUP
_GROUP = ir.VectorType(BYTE, GROUP)


def _table() -> np.ndarray:
    """Magnitudes int8 [sizes, 16], the largest of a size being the size.

    Halfway between those at equal distances and those at equal shares of a normal distribution: in between lie the
    weights of a trained model, divided by the largest of their group.
    """
    steps = (np.arange(_MAGNITUDES) + 0.5) / (2 * _MAGNITUDES)
    normal = np.array([NormalDist().inv_cdf(0.5 + step) for step in steps])
    shape = (normal / normal[-1] + steps / steps[-1]) / 2
    return np.round(np.arange(_SIZES)[:, None] * shape).astype(np.int8)


def _nearest() -> tuple[np.ndarray, np.ndarray]:
    """For every size and weight without its sign, the place of the nearest magnitude, and the error's square."""
    apart = np.abs(MAGNITUDES[:, None, :].astype(np.int64) - np.arange(_SIZES)[:, None])
    return apart.argmin(-1).astype(np.uint8), (apart.min(-1) ** 2).astype(np.int32)


MAGNITUDES = _table()
_PLACES, _ERRORS = _nearest()


def padded(width: int) -> int:
    """Weights a line, in whole blocks."""
    return -(-width // BLOCK) * BLOCK


@register_jitable
def line_bytes(width: int) -> int:
    """Bytes that a line of `width` weights, whole blocks of them, is packed into."""
    return width // BLOCK * BLOCK_BYTES


def pack(weight: Tensor) -> Tensor:
    """int8 [O, I] from -127 to 127 as bytes int8 [O, line_bytes]: each group at the size that loses least."""
    wide = padded(weight.shape[1])
    whole = torch.nn.functional.pad(weight, (0, wide - weight.shape[1]))
    packed = torch.zeros(len(weight), line_bytes(wide), dtype=torch.uint8)
    shares = zip(whole.split(_SHARE), packed.split(_SHARE), strict=True)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(lambda share: _pack(share[0].numpy(), share[1].numpy(), _PLACES, _ERRORS), shares))
    return packed.view(torch.int8)


def unpack(packed: Tensor, width: int) -> Tensor:
    """The weights int8 [O, width], nearly what they were; `width` may count those that pad a line, too."""
    wide = padded(width)
    weight = torch.empty(len(packed), wide, dtype=torch.int8)
    _unpack(packed.view(torch.uint8).numpy(), weight.numpy())
    return weight[:, :width]


@njit
def _pack_lines(weight, packed, places, errors):
    group = np.empty(GROUP, np.int64)
    for out in range(len(weight)):
        for first in range(0, weight.shape[1], GROUP):
            block, half = packed[out, first // BLOCK * BLOCK_BYTES :], first // GROUP % 2
            for i in range(GROUP):
                group[i] = abs(weight[out, first + i])
            size = _best_size(group, errors)
            block[_SIZES_AT + half] = size
            for i in range(GROUP):
                block[i] |= np.uint8(places[size, group[i]] << (4 * half))
                if weight[out, first + i] < 0:
                    block[_SIGNS_AT + (half * GROUP + i) // 8] |= np.uint8(1 << (i % 8))


@njit
def _best_size(group, errors):
    """The size, about the largest of a group's weights [64], none of which has a sign, at which the least is lost."""
    largest, best, least = group.max(), 0, np.int64(2**62)
    step = max(1, largest // _TRIED)
    for size in range(largest - largest // 8, min(largest + largest // 4, len(errors) - 1) + 1, step):
        row, lost = errors[size], np.int64(0)
        for i in range(len(group)):
            lost += row[group[i]]
        if lost < least:
            best, least = size, lost
    return best


def unpacker(*, plain: bool = False) -> Any:
    """A function (packed, out, width) of addresses and the weights a line, whole blocks of them: it unpacks one line.

    `plain`: without instructions that not all processors have.
    """
    block = _block(plain=plain)

    @njit
    def line(packed, out, wide):
        for number in range(wide // BLOCK):
            block(packed + number * BLOCK_BYTES, out + number * BLOCK)

    return line


def _block(*, plain: bool) -> Any:
    @intrinsic
    def block(_: Any, packed: Any, out: Any) -> Any:
        def generate(context: Any, builder: Any, _: Any, given: tuple[ir.Value, ir.Value]) -> ir.Value:
            for half, found in enumerate(halves(context, builder, given[0], plain=plain)):
                place = builder.add(given[1], word(half * GROUP))
                builder.store(found, builder.inttoptr(place, found.type.as_pointer()), align=1)  # type: ignore
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    return block


def halves(context: Any, builder: Any, packed: ir.Value, *, plain: bool = False) -> list[ir.Value]:
    """The weights of the block at an address, a vector for each of its groups."""
    at_once = vectors.has(context, "avx512bw") and not plain
    look_up = _looked_up if at_once else _looked_up_one_by_one
    tables = builder.ptrtoint(context.insert_const_bytes(builder.module, MAGNITUDES.tobytes()), WORD)
    pairs = vectors.load(builder, packed, ir.VectorType(ir.IntType(16), GROUP // 2), 1)
    found = []
    for half in range(BLOCK // GROUP):
        moved = builder.lshr(pairs, ir.Constant(pairs.type, [4 * half] * (GROUP // 2)))  # type: ignore[attr-defined]
        places = builder.and_(builder.bitcast(moved, _GROUP), ir.Constant(_GROUP, [_MAGNITUDES - 1] * GROUP))
        size = vectors.load(builder, builder.add(packed, word(_SIZES_AT + half)), BYTE, 1)
        table = builder.add(tables, builder.mul(builder.zext(size, WORD), word(_MAGNITUDES)))
        magnitudes = look_up(builder, table, places)
        signs = vectors.load(builder, builder.add(packed, word(_SIGNS_AT + half * GROUP // 8)), WORD, 1)
        negative = builder.bitcast(signs, ir.VectorType(ir.IntType(1), GROUP))
        found.append(builder.select(negative, builder.sub(vectors.nought(_GROUP), magnitudes), magnitudes))
    return found


def _looked_up(builder: Any, table: ir.Value, places: ir.Value) -> ir.Value:
    entries = vectors.load(builder, table, ir.VectorType(BYTE, _MAGNITUDES), 1)
    in_each_lane = vectors.lanes(builder, entries, None, list(range(_MAGNITUDES)) * (GROUP // _MAGNITUDES))
    shuffle = vectors.declare(builder.module, "llvm.x86.avx512.pshuf.b.512", _GROUP, [_GROUP] * 2)
    return builder.call(shuffle, [in_each_lane, places])


def _looked_up_one_by_one(builder: Any, table: ir.Value, places: ir.Value) -> ir.Value:
    found: ir.Value = ir.Constant(_GROUP, ir.Undefined)
    for number in range(GROUP):
        lane = ir.Constant(ir.IntType(32), number)
        place = builder.add(table, builder.zext(builder.extract_element(places, lane), WORD))
        found = builder.insert_element(found, vectors.load(builder, place, BYTE, 1), lane)
    return found


unpack_line = unpacker()


@njit
def _unpack_lines(packed, weight):
    apart, wide = packed.shape[1], weight.shape[1]
    for out in range(len(packed)):
        unpack_line(packed.ctypes.data + out * apart, weight.ctypes.data + out * wide, wide)


def _of(version: int) -> tuple[Any, Any]:
    """Packing and unpacking, to be kept on disk for this version of their parts."""

    @compiled
    def pack_lines(weight, packed, places, errors):
        if version >= 0:
            _pack_lines(weight, packed, places, errors)

    @compiled
    def unpack_lines(packed, weight):
        if version >= 0:
            _unpack_lines(packed, weight)

    return pack_lines, unpack_lines


_pack, _unpack = _of(sources())
