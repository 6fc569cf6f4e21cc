"""Layers for decoding in float32, float16, bfloat16, int8 or int5.

float16 and bfloat16 save the reading of weights, which is what a step of a few rows waits for, and int8 arithmetic,
too. Bundles hold float16, so with it weights lose almost nothing. int8
weights have a scale for each output, and what they are multiplied with is rounded to int8 as well, with a scale for
each row: sums are exact, so a row's products depend neither on its company nor on the processor. int5 is int8 with the
weights of feed-forward layers, two thirds of all, packed into 5 bits, see `native.packed`. The layers here
compute where there are many rows: known codes, prefixes, and the passes of layout `parallel`. Single steps on CPUs
read the same weights, see `native`, which computes the same numbers.
"""

from functools import cache
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Precision = Literal["float32", "float16", "bfloat16", "int8", "int5"]

_FLOATS: dict[str, torch.dtype] = {"float16": torch.float16, "bfloat16": torch.bfloat16}

LARGEST = 127  # of int8, on both sides of nought
SMALLEST = 1e-12  # that the largest number of a row counts as: a row of zeros has a scale, too
_EXACT = 1024  # products of int8 that float32 adds up exactly: 127 x 127 x 1024 is below 2^24


class RoundedLinear(nn.Module):
    """nn.Linear with weights in float16 or bfloat16, or in int8 with a scale for each output.

    With `columns`, weights in int8 are packed lines of so many.
    """

    def __init__(self, weight: Tensor, scale: Tensor | None, bias: Tensor | None, columns: int | None = None) -> None:
        super().__init__()
        self.weight, self.scale, self.bias, self.columns = weight, scale, bias, columns

    def forward(self, x: Tensor) -> Tensor:
        if self.scale is not None:
            y = self._of_bytes(x.flatten(0, -2), self.scale).unflatten(0, x.shape[:-1])
        elif self.weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported():
            y = F.linear(x.bfloat16(), self.weight).float()
        else:
            y = F.linear(x, self.weight.float())
        return y if self.bias is None else y.add_(self.bias)

    def _of_bytes(self, x: Tensor, scale: Tensor) -> Tensor:
        """x [N, I] times the weights: [N, O]."""
        if find_spec("numba") is None:
            rows, scales = round_rows(x)
            return integer_products(rows, self.integers()).float() * (scales * scale)
        from v2meow.generate.native.rows import rounded_rows, scaled_sums  # here, so that torch alone will do

        rows, scales = rounded_rows(x)
        return scaled_sums(integer_products(rows, self.integers()), scales, scale)

    def integers(self, columns: int | None = None) -> Tensor:
        """The weights int8 [O, I], or so many `columns` of them, which may count those that pad a packed line."""
        if self.columns is None:
            return self.weight
        from v2meow.generate.native.packed import unpack  # here, so that other precisions need torch alone

        return unpack(self.weight, columns or self.columns)


def round_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [..., I] in int8, each row by its largest number, and the rows' scales [..., 1]."""
    largest = x.abs().amax(-1, keepdim=True).clamp(min=SMALLEST)
    return (x * (largest.reciprocal() * LARGEST)).round().to(torch.int8), largest / LARGEST


def integer_products(rows: Tensor, weight: Tensor) -> Tensor:
    """int8 [N, I] times int8 [O, I]: int32 [N, O], exact."""
    if _int_mm_is_exact():
        return torch.ops.aten._int_mm(rows, weight.t())
    parts = zip(rows.split(_EXACT, 1), weight.split(_EXACT, 1), strict=True)
    return sum(F.linear(part.float(), weights.float()).to(torch.int32) for part, weights in parts)  # type: ignore


@cache
def _int_mm_is_exact() -> bool:
    """oneDNN adds up pairs of products in 16 bits on processors without VNNI, and cuts off what is beyond."""
    largest = torch.full((64, 64), LARGEST, dtype=torch.int8)
    return bool((torch.ops.aten._int_mm(largest, largest.t()) == 64 * LARGEST**2).all())


def rounded(linear: nn.Linear, precision: Precision) -> nn.Module:
    """The layer with weights of that precision, for int5 packed; itself for float32."""
    weight, bias = linear.weight.detach(), None if linear.bias is None else linear.bias.detach()
    if precision == "float32":
        return linear
    if precision in _FLOATS:
        return RoundedLinear(weight.to(_FLOATS[precision]), None, bias)
    scale = weight.abs().amax(1).clamp(min=SMALLEST) / LARGEST
    integers = (weight / scale[:, None]).round().to(torch.int8)
    if precision == "int8":
        return RoundedLinear(integers, scale, bias)
    from v2meow.generate.native.packed import pack

    return RoundedLinear(pack(integers), scale, bias, columns=integers.shape[1])


def lower(module: nn.Module, precision: Precision) -> None:
    """Round the weights of every nn.Linear below `module`, in place. ValueError for int8 and int5 off the CPU.

    On CUDA the layers stay nn.Linear, and all of the module computes in float16 or bfloat16.
    """
    if any(parameter.device.type != "cpu" for parameter in module.parameters()):
        if precision in ("int8", "int5"):
            raise ValueError(f"precision {precision} is for CPUs: choose bfloat16 or float16 on a GPU")
        module.to(_FLOATS.get(precision, torch.float32))
        return
    _lower(module, precision)


def _lower(module: nn.Module, precision: Precision, *, inside_feed: bool = False) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            own: Precision = "int8" if precision == "int5" and not inside_feed else precision
            setattr(module, name, rounded(child, own))
        else:
            _lower(child, precision, inside_feed=inside_feed or name == "feed")
