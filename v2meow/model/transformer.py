"""Pre-norm transformer layers with rotary positions in time and an explicit key-value cache.

Positions are times, not indices: a query at 1.20 s meets a key at 1.20 s at rotary distance zero
whatever the rates of the two sequences, in self- and in cross-attention. This is what aligns
visual frames (10 Hz), semantic ids (25 Hz) and codec frames (50 Hz) without learning an alignment.

Legend: B batch, S sequence, M memory, D width, H heads. Nothing here knows what a token is.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

POSITIONS_PER_SECOND = 50.0
ROTARY_BASE = 10_000.0
NEAR = 2.5  # how strongly half of the heads begin by looking at their own time


@dataclass
class KeyValues:
    """Keys and values of one attention, [B, H, capacity, D / H] each. What of them is valid, its user knows."""

    keys: Tensor
    values: Tensor

    def fill(self, keys: Tensor, values: Tensor) -> None:
        """Write the first places of all rows."""
        count = keys.shape[2]
        assert count <= self.keys.shape[2], (count, self.keys.shape)
        self.keys[:, :, :count] = keys
        self.values[:, :, :count] = values


Angles = tuple[Tensor, Tensor]


def rotary(times: Tensor, head_width: int) -> Angles:
    """Cosines and signed sines [..., S, D / H] for `times` [..., S] in seconds (RoFormer, arXiv 2104.09864)."""
    exponent = torch.arange(0, head_width, 2, device=times.device, dtype=torch.float32) / head_width
    angle = times.float()[..., None] * POSITIONS_PER_SECOND * ROTARY_BASE**-exponent
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x: Tensor, angles: Angles) -> Tensor:
    """Turn queries or keys [..., S, D / H] by their positions."""
    cos, sin = (part.to(x.dtype) for part in angles)
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def near_bias(width: int, heads: int) -> Tensor:
    """Bias [width] of queries and of keys under which every second head begins by attending to its own time.

    Equal constant queries and keys score NEAR^2 * sum_i cos(w_i dt) under rotary positions: highest at
    dt = 0. Learnt from nothing, finding the prefix id of the same time takes thousands of steps; with it
    the coarse stage follows its semantic ids after a hundred.
    """
    bias = torch.zeros(heads, 2, width // heads // 2)
    bias[::2, 0] = NEAR
    return bias.flatten()


class SelfAttention(nn.Module):
    """Multi-head self-attention, causal or not."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width, bias=False)

    @torch.no_grad()
    def prefer_near(self) -> None:
        """Start with half of the heads looking at what is near in time."""
        bias = near_bias(self.qkv.in_features, self.heads)
        self.qkv.bias.copy_(torch.cat((bias, bias, torch.zeros_like(bias))))

    def forward(self, x: Tensor, angles: Angles, *, causal: bool, cache: KeyValues | None = None) -> Tensor:
        """x [B, S, D] → [B, S, D]. Its keys and values are left in the cache."""
        query, key, value = self.project(x, angles)
        if cache:
            cache.fill(key, value)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        return self.out(_join(mixed))

    def project(self, x: Tensor, angles: Angles) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys, turned by their positions, and values of x [B, S, D]: [B, H, S, D / H] each."""
        query_key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).split((2, 1))
        query, key = rotate(query_key, angles)
        return query, key, value[0]


class CrossAttention(nn.Module):
    """Attention to a memory whose keys and values are projected once."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width, bias=False)

    @torch.no_grad()
    def prefer_near(self) -> None:
        """Start with half of the heads looking at what is near in time."""
        bias = near_bias(self.query.in_features, self.heads)
        self.query.bias.copy_(bias)
        self.key_value.bias.copy_(torch.cat((bias, torch.zeros_like(bias))))

    def project(self, memory: Tensor, angles: Angles) -> KeyValues:
        """Keys and values of the memory [B, M, D]."""
        key, value = (_split(part, self.heads) for part in self.key_value(memory).chunk(2, dim=-1))
        return KeyValues(rotate(key, angles), value)

    def forward(self, x: Tensor, angles: Angles, memory: KeyValues) -> Tensor:
        query = rotate(_split(self.query(x), self.heads), angles)
        return self.out(_join(F.scaled_dot_product_attention(query, memory.keys, memory.values)))


class Block(nn.Module):
    """Self-attention, optional cross-attention, feed-forward; each behind a norm and added back."""

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float, *, cross: bool) -> None:
        super().__init__()
        self.norm_attention, self.attention = nn.LayerNorm(width, bias=False), SelfAttention(width, heads)
        self.norm_cross = nn.LayerNorm(width, bias=False) if cross else None
        self.cross = CrossAttention(width, heads) if cross else None
        self.norm_feed = nn.LayerNorm(width, bias=False)
        self.feed = nn.Sequential(
            nn.Linear(width, feed_forward, bias=False), nn.GELU(), nn.Linear(feed_forward, width, bias=False)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        angles: Angles,
        *,
        causal: bool,
        memory: KeyValues | None = None,
        cache: KeyValues | None = None,
    ) -> Tensor:
        x = x + self.dropout(self.attention(self.norm_attention(x), angles, causal=causal, cache=cache))
        if self.cross and self.norm_cross:
            assert memory is not None, "a block with cross-attention needs a memory"
            x = x + self.dropout(self.cross(self.norm_cross(x), angles, memory))
        return x + self.dropout(self.feed(self.norm_feed(x)))

    def fill(self, x: Tensor, angles: Angles, cache: KeyValues) -> None:
        """Leave in the cache what `forward` would, where its output is not wanted: a quarter of its products."""
        _, key, value = self.attention.project(self.norm_attention(x), angles)
        cache.fill(key, value)


def _split(x: Tensor, heads: int) -> Tensor:
    """[B, S, D] → [B, H, S, D / H]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _join(x: Tensor) -> Tensor:
    """[B, H, S, D / H] → [B, S, D]."""
    return x.transpose(1, 2).flatten(2)
