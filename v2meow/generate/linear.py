"""Linear layers for decoding: a few rows through weights that are read once a step.

With two to sixteen rows PyTorch's own linear is three to seven times slower than reading its weights; the
kernels here come near to that. Weights are repacked once, and the plain ones are let go:

    float32    oneDNN's blocked layout; the same arithmetic as nn.Linear, up to the order of sums
    bfloat16   the same with weights of half the size; everything between the layers stays float32
    int8       weights by output channel, activations by row: 8 bits each, FBGEMM's kernels

On CUDA the layers stay nn.Linear, in float32 or bfloat16.
"""

import warnings
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from v2meow.generate.pages import Span

Precision = Literal["float32", "bfloat16", "int8"]

_product = torch.ops.mkldnn._linear_pointwise.default
_PACKED_ROWS = 16  # the layout oneDNN chooses for that many rows is within 10 % of the best for 1 to 24
_ONE = torch.tensor([1.0, -1.0, 0.0, 0.0])  # what is put behind each row of activations, see Int8Linear


class PackedLinear(nn.Module):
    """nn.Linear through oneDNN with weights in its own blocked layout, in float32 or bfloat16, and GELU behind it."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.activation = dtype, "none"
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)
        weight = linear.weight.detach().to(dtype)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, _PACKED_ROWS)

    def forward(self, x: Tensor) -> Tensor:
        if self.dtype != x.dtype:
            return self._product(x.to(self.dtype)).to(x.dtype)
        return self._product(x)

    def _product(self, x: Tensor) -> Tensor:
        return _product(x, self.weight, self.bias, self.activation, [], "none")


class Int8Linear(nn.Module):
    """nn.Linear with int8 weights, and activations that are quantized row by row.

    FBGEMM quantizes a whole batch by its largest value, which would make a request's codes depend on whom it is
    batched with. Rows are therefore scaled to ±1 first, and +1 and -1 stand behind each row, against weights of
    zero, so that the batch's range is always the same.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = F.pad(linear.weight.detach(), (0, len(_ONE)))
        scale = weight.abs().amax(1).clamp(min=1e-12) / 127
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.reduce_range = not torch.cpu._is_vnni_supported()  # without VNNI, sums of 8-bit products saturate
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # deprecated, and there is no successor for these kernels yet
            zero = torch.zeros(len(scale), dtype=torch.int64)
            quantized = torch.quantize_per_channel(weight, scale.double(), zero, 0, torch.qint8)
        self.weight = torch.ops.quantized.linear_prepack(quantized, None)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        scale = rows.abs().amax(1, keepdim=True).clamp(min=1e-12)
        bounded = torch.cat((rows / scale, _ONE.expand(len(rows), -1)), 1)
        y = torch.ops.quantized.linear_dynamic(bounded, self.weight, self.reduce_range) * scale
        return (y if self.bias is None else y + self.bias).unflatten(0, x.shape[:-1])


def pack(module: nn.Module, precision: Precision) -> None:
    """Replace every nn.Linear below `module`, in place, by its packed form. ValueError for int8 off the CPU."""
    if next(module.parameters()).device.type != "cpu":
        if precision == "int8":
            raise ValueError("precision int8 is for CPUs: choose bfloat16 on a GPU")
        module.to(torch.bfloat16 if precision == "bfloat16" else torch.float32)
    elif torch.backends.mkldnn.is_available():
        _pack_below(module, precision)


def packed_spans(module: nn.Module) -> list[Span]:
    """Where in memory the packed weights below `module` are; those of int8 do not tell."""
    weights = [layer.weight for layer in module.modules() if isinstance(layer, PackedLinear)]
    starts = [(torch.ops.mkldnn.data_ptr(weight), torch.ops.mkldnn._nbytes(weight)) for weight in weights]
    return [Span(start, start + length) for start, length in starts]


def _pack_below(module: nn.Module, precision: Precision) -> None:
    before = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            before = Int8Linear(child) if precision == "int8" else _packed(child, precision)
            setattr(module, name, before)
        elif isinstance(child, nn.GELU) and isinstance(before, PackedLinear):
            before.activation = "gelu"
            setattr(module, name, nn.Identity())
        else:
            _pack_below(child, precision)


def _packed(linear: nn.Linear, precision: Precision) -> PackedLinear:
    if precision == "float32":
        return PackedLinear(linear, torch.float32)
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return PackedLinear(linear, torch.bfloat16)
    with torch.no_grad():  # a CPU without bfloat16 computes with the same weights in float32
        for parameter in linear.parameters():
            parameter.copy_(parameter.bfloat16())
    return PackedLinear(linear, torch.float32)
