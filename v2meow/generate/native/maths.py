"""The functions between the layers, written so that a compiler turns their loops into vector instructions."""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import float32, int32, njit, uint8, uint16, uint32
from numba.extending import intrinsic

from v2meow.generate.linear import LARGEST, SMALLEST

# How all functions here are compiled. Nothing says that numbers are finite: all the rest of what lets sums be reordered
# and fused. Division by nought is infinite, as for NumPy: a loop that might raise an error is not made of vectors.
FAST: dict[str, Any] = {"fastmath": {"reassoc", "contract", "nsz", "arcp", "afn"}, "error_model": "numpy"}
# Where numbers are rounded to bytes, each must fall on the same side as elsewhere. Unless a function says that it is
# not FAST, it is compiled as its caller is.
EXACT: dict[str, Any] = {"fastmath": False, "error_model": "numpy"}
EPSILON = 1e-5  # of nn.LayerNorm

_LOG2_E, _LN2 = 1.4426950408889634, 0.6931471805599453
_LOWEST = -87.0  # exp of less is nought in float32


def _bits_to_float(_: Any, bits: Any) -> Any:
    """The float32 that has these bits."""

    def generate(context: Any, builder: Any, _: Any, given: tuple[ir.Value]) -> ir.Value:
        return builder.bitcast(given[0], ir.FloatType())

    return float32(int32), generate  # type: ignore[call-overload]


def _float_to_bits(_: Any, number: Any) -> Any:
    """The bits of a float32."""

    def generate(context: Any, builder: Any, _: Any, given: tuple[ir.Value]) -> ir.Value:
        return builder.bitcast(given[0], ir.IntType(32))

    return int32(float32), generate  # type: ignore[call-overload]


as_float: Any = intrinsic(_bits_to_float)
as_bits: Any = intrinsic(_float_to_bits)


@njit(**FAST, inline="always")
def exp_of_negative(x):
    """e^x of a float32 x <= 0, to 1e-7: a power of two, by its bits, and a Taylor series within half an octave."""
    x = max(x, float32(_LOWEST))
    octave = int32(x * float32(_LOG2_E) - float32(0.5))
    r = x - float32(octave) * float32(_LN2)
    series = float32(1 / 120) + r * float32(1 / 720)
    series = float32(1 / 6) + r * (float32(1 / 24) + r * series)
    series = float32(1) + r * (float32(1) + r * (float32(0.5) + r * series))
    return series * as_float((octave + int32(127)) << int32(23))


@njit(**EXACT, inline="always")
def to_float16(bits):
    """The bits of a float32 as those of the nearest float16: ties to even, what is too large to infinity."""
    size = uint32(bits & uint32(0x7FFFFFFF))
    # Half of what is cut off is added, less one bit where the last that stays is even; the exponent's bias differs.
    to_even = uint32(uint32(0xFFF) + uint32(uint32(size >> uint32(13)) & uint32(1)))
    normal = uint32(uint32(size + to_even) - uint32(112 << 23)) >> uint32(13)
    # Beside one half, the last bit of a float32 is the last of a subnormal float16.
    subnormal = uint32(as_bits(as_float(int32(size)) + float32(0.5))) - uint32(0x3F000000)
    found = uint32(normal) if size >= uint32(113 << 23) else uint32(subnormal)
    found = uint32(0x7C00) if size >= uint32(143 << 23) else found
    found = uint32(0x7E00) if size > uint32(255 << 23) else found  # not a number
    return uint16(found | uint32(uint32(bits >> uint32(16)) & uint32(0x8000)))


@njit(**FAST, inline="always")
def gelu(x):
    """x times the normal distribution's share below x, exact to 1e-6: Abramowitz and Stegun, 7.1.26."""
    size = abs(x) * float32(0.7071067811865476)
    t = float32(1) / (float32(1) + float32(0.3275911) * size)
    series = float32(-1.453152027) + t * float32(1.061405429)
    series = float32(-0.284496736) + t * (float32(1.421413741) + t * series)
    series = t * (float32(0.254829592) + t * series)
    tail = float32(0.5) * series * exp_of_negative(-size * size)  # the share above |x|
    return max(x, float32(0)) - abs(x) * tail


@njit(**FAST)
def normalise(x, out):
    """nn.LayerNorm without weights, of x [D] into out [D]."""
    total = float32(0)
    for i in range(len(x)):
        total += x[i]
    mean = total / float32(len(x))
    spread = float32(0)
    for i in range(len(x)):
        spread += (x[i] - mean) * (x[i] - mean)
    scale = float32(1) / math.sqrt(spread / float32(len(x)) + float32(EPSILON))
    for i in range(len(x)):
        out[i] = (x[i] - mean) * scale


@njit(**FAST)
def turn(x, cos, sin, out):
    """Rotary positions: x [D / H] by its cosines and signed sines, into out."""
    half = len(x) // 2
    for i in range(half):
        out[i] = x[i] * cos[i] + x[half + i] * sin[i]
        out[half + i] = x[half + i] * cos[half + i] + x[i] * sin[half + i]


@njit(**EXACT)
def round_rows(x, rows, wide, offset, out, scales):
    """Rows of x [N, I], each by its largest number, as bytes with `offset` into `out`, `wide` apart; their scales.

    The same numbers as `generate.linear.round_rows`.
    """
    for row in range(rows):
        largest = max(_largest(x[row]), float32(SMALLEST))
        scales[row] = largest / float32(LARGEST)
        factor = float32(1) / largest * float32(LARGEST)  # as PyTorch divides a constant by a tensor
        here = out[row * wide : (row + 1) * wide]
        for i in range(x.shape[1]):
            here[i] = uint8(int32(np.rint(x[row, i] * factor)) + int32(offset))
        for i in range(x.shape[1], wide):  # what packed weights have behind a line's end need not be nought
            here[i] = uint8(offset)


@njit(**EXACT)
def _largest(x):
    """The largest number without its sign: positive floats are in the order of their bits, which compare faster."""
    bits, highest = x.view(np.int32), int32(0)
    for i in range(len(bits)):
        size = int32(bits[i] & int32(0x7FFFFFFF))
        if size > highest:  # `max` would compare in 64 bits
            highest = size
    return as_float(highest)


@njit(**EXACT)
def scale_back(y, rows, first, last, offsets, scales, row_scales):
    """The sums in columns first … last - 1 of y [N, O], which are int32, become the products in float32."""
    offsets, scales = offsets[first:last], scales[first:last]
    for row in range(rows):
        here, row_scale = y[row, first:last], row_scales[row]
        for i in range(len(here)):  # one array and its bits: of two views, a compiler must fear that they overlap
            here[i] = float32(as_bits(here[i]) - offsets[i]) * (row_scale * scales[i])


@njit(**FAST)
def activate(x, rows, first, last):
    """GELU over columns first … last - 1 of x [N, O]."""
    for row in range(rows):
        here = x[row, first:last]  # not an element of two indices, of which a compiler makes no vectors
        for i in range(len(here)):
            here[i] = gelu(here[i])


@njit(**FAST)
def add(x, y):
    """x += y, both [n]."""
    for i in range(len(x)):
        x[i] += y[i]
