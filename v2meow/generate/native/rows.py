"""Many rows times weights of 8 bits: what stands around PyTorch's product of integers, each in one pass over memory."""

from typing import Any

import torch
from torch import Tensor

from v2meow.generate.native.compiling import compiled, sources
from v2meow.generate.native.maths import round_rows, scale_back


def _of(version: int) -> tuple[Any, Any]:
    """Rounding and scaling, to be kept on disk for this version of their parts."""

    @compiled
    def rounding(x, out, scales):
        if version >= 0:
            round_rows(x, len(x), x.shape[1], 0, out, scales)

    @compiled
    def scaling(sums, nought, scales, row_scales):
        if version >= 0:
            scale_back(sums, len(sums), 0, sums.shape[1], nought, scales, row_scales)

    return rounding, scaling


_rounding, _scaling = _of(sources())


def rounded_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [N, I] in int8 and the rows' scales [N]: the numbers of `generate.linear.round_rows`."""
    rows, scales = torch.empty(x.shape, dtype=torch.int8), torch.empty(len(x))
    _rounding(x.detach().contiguous().numpy(), rows.view(torch.uint8).numpy().reshape(-1), scales.numpy())
    return rows, scales


def scaled_sums(sums: Tensor, row_scales: Tensor, scales: Tensor) -> Tensor:
    """int32 [N, O] by the scales of rows [N] and of outputs [O], in the same memory: float32 [N, O]."""
    y = sums.view(torch.float32)
    nought = torch.zeros(sums.shape[1], dtype=torch.int32)
    _scaling(y.numpy(), nought.numpy(), scales.numpy(), row_scales.numpy())
    return y
