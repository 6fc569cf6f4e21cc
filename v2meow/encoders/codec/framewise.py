"""The lapped codec's decoder as it is fastest: the same arithmetic as a few products over frames.

Sound is streamed in chunks of a second or two, which are 25 to 50 frames. For so few oneDNN spends longer on reordering
a convolution's weights, at every call, than on the convolution. Here they are laid out once: a frame is a row, and
the taps of a convolution stand beside each other. Half of the modules' time.

Legend: B batch, F frames, D width of a frame, which is the hop, K levels.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class _Block(NamedTuple):
    """A residual block: its taps [taps * D, D / 2] and what brings them back to a frame [D / 2, D], with biases."""

    dilation: int
    taps: Tensor
    bias: Tensor
    back: Tensor
    back_bias: Tensor


class FramewiseDecoder:
    """What `quantizer`, `decoder` and `synthesis` of a lapped codec make of codes, by copies of their weights."""

    def __init__(self, quantizer: Any, decoder: Any, synthesis: Any) -> None:
        books = [layer.codebook for layer in quantizer.vq.layers]
        self._entries = torch.cat(books).detach()
        self._begins = torch.arange(len(books), device=self._entries.device) * len(books[0])
        self._blocks = [_block(block) for block in decoder]
        self._basis = synthesis.convtr.convtr.weight.detach()[:, 0].contiguous()

    def frames(self, codes: Tensor) -> Tensor:
        """Codes [B, k, F] of the first k ≤ K levels → companded coefficients [B, F, D]."""
        entries = codes.transpose(1, 2) + self._begins[: codes.shape[1]]
        frames = F.embedding_bag(entries.flatten(0, 1), self._entries, mode="sum").unflatten(0, entries.shape[:2])
        for block in self._blocks:
            hidden = _beside(F.elu(frames), block.dilation, len(block.taps) // frames.shape[2]) @ block.taps
            frames = frames + (F.elu(hidden.add_(block.bias), inplace=True) @ block.back).add_(block.back_bias)
        return frames

    def overlapped(self, coefficients: Tensor) -> Tensor:
        """Coefficients [B, F, D] → [B, F * D]: the second half of each frame's sound, under the first of the next."""
        hop = coefficients.shape[2]
        made = coefficients @ self._basis
        sound = made[..., hop:].clone()
        sound[:, :-1] += made[:, 1:, :hop]
        return sound.flatten(1)


def _beside(frames: Tensor, dilation: int, taps: int) -> Tensor:
    """Each frame [B, F, D] behind those that a causal kernel sees before it: [B, F, taps * D]."""
    count, before = frames.shape[1], (taps - 1) * dilation
    padded = F.pad(frames, (0, 0, before, 0))
    return torch.cat([padded[:, tap * dilation : tap * dilation + count] for tap in range(taps)], dim=-1)


def _block(block: Any) -> _Block:
    first, second = (block.block[place].conv.conv for place in (1, 3))
    taps = first.weight.detach().permute(2, 1, 0).flatten(0, 1).contiguous()
    back = second.weight.detach()[..., 0].T.contiguous()
    return _Block(first.dilation[0], taps, first.bias.detach(), back, second.bias.detach())
