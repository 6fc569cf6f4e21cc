"""Weights for decoding in float32, bfloat16 or int8.

Activations stay float32: lower precision saves the reading of weights, which is what a step of a few rows waits for.
int8 weights have a scale for each output. The layers here compute with such weights where there are many rows: known
codes, prefixes, and the passes of layout `parallel`. Single steps on CPUs read the same weights, see `native`.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Precision = Literal["float32", "bfloat16", "int8"]


class RoundedLinear(nn.Module):
    """nn.Linear with weights in bfloat16, or in int8 with a scale for each output."""

    def __init__(self, weight: Tensor, scale: Tensor | None, bias: Tensor | None) -> None:
        super().__init__()
        self.weight, self.scale, self.bias = weight, scale, bias

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported():
            y = F.linear(x.bfloat16(), self.weight).float()
        else:
            y = F.linear(x, self.weight.float())
        y = y if self.scale is None else y * self.scale
        return y if self.bias is None else y + self.bias


def rounded(linear: nn.Linear, precision: Precision) -> nn.Module:
    """The layer with weights of that precision; itself for float32."""
    weight, bias = linear.weight.detach(), None if linear.bias is None else linear.bias.detach()
    if precision == "float32":
        return linear
    if precision == "bfloat16":
        return RoundedLinear(weight.bfloat16(), None, bias)
    scale = weight.abs().amax(1).clamp(min=1e-12) / 127
    return RoundedLinear((weight / scale[:, None]).round().to(torch.int8), scale, bias)


def lower(module: nn.Module, precision: Precision) -> None:
    """Round the weights of every nn.Linear below `module`, in place. ValueError for int8 off the CPU.

    On CUDA the layers stay nn.Linear, and all of the module computes in bfloat16.
    """
    if any(parameter.device.type != "cpu" for parameter in module.parameters()):
        if precision == "int8":
            raise ValueError("precision int8 is for CPUs: choose bfloat16 on a GPU")
        module.to(torch.bfloat16 if precision == "bfloat16" else torch.float32)
        return
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            setattr(module, name, rounded(child, precision))
        else:
            lower(child, precision)
