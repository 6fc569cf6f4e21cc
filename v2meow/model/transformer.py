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


@dataclass(frozen=True)
class Step:
    """One new place for each of n rows, behind pasts of different lengths; the same for all layers of one step.

    `place` [n] is where the new place of each of the first n rows goes, `span` is above every place, and `mask`
    [n, 1, 1, span] is 0 where a row may look and -inf elsewhere; None where all rows see all of it.
    """

    place: Tensor
    span: int
    mask: Tensor | None


@dataclass
class KeyValues:
    """Keys and values of one attention, [B, H, capacity, D / H] each. What of them is valid, its user knows."""

    keys: Tensor
    values: Tensor

    def rows(self, first: int, end: int) -> "KeyValues":
        """The same storage, seen from row `first` to `end` - 1."""
        return KeyValues(self.keys[first:end], self.values[first:end])

    def fill(self, keys: Tensor, values: Tensor) -> None:
        """Write the first places of all rows."""
        count = keys.shape[2]
        assert count <= self.keys.shape[2], (count, self.keys.shape)
        self.keys[:, :, :count] = keys
        self.values[:, :, :count] = values

    def append(self, keys: Tensor, values: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Write one place a row, keys and values [n, H, 1, D / H]; return views of the first `span` places."""
        rows = len(step.place)
        where = step.place[:, None, None, None].expand_as(keys)
        self.keys[:rows].scatter_(2, where, keys.to(self.keys.dtype))
        self.values[:rows].scatter_(2, where, values.to(self.values.dtype))
        return self.keys[:rows, :, : step.span], self.values[:rows, :, : step.span]


Angles = tuple[Tensor, Tensor]


def rotary(times: Tensor, head_width: int) -> Angles:
    """Cosines and signed sines [..., S, D / H] for `times` [..., S] in seconds (RoFormer, arXiv 2104.09864)."""
    exponent = torch.arange(0, head_width, 2, device=times.device, dtype=torch.float32) / head_width
    angle = times.float()[..., None] * POSITIONS_PER_SECOND * ROTARY_BASE**-exponent
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x: Tensor, angles: Angles) -> Tensor:
    """Turn queries or keys [..., S, D / H] by their positions, computed in float32."""
    cos, sin = angles
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin).to(x.dtype)


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

    def forward(
        self, x: Tensor, angles: Angles, *, causal: bool, cache: KeyValues | None = None, step: Step | None = None
    ) -> Tensor:
        """x [B, S, D] → [B, S, D]. A cache is filled with what x says, or, with a step, continued by it."""
        query_key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).split((2, 1))
        (query, key), (value,) = rotate(query_key, angles), value
        mask = None
        if cache and step:
            key, value = cache.append(key, value, step)
            query, mask = query.to(key.dtype), step.mask
        elif cache:
            cache.fill(key, value)
        square = causal and not step and x.shape[1] > 1
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=square)
        return self.out(_join(mixed))


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

    def forward(self, x: Tensor, angles: Angles, memory: KeyValues, mask: Tensor | None = None) -> Tensor:
        """`mask` [B, 1, 1, M] is -inf where a row's memory ends before the storage does."""
        query = rotate(_split(self.query(x), self.heads), angles).to(memory.keys.dtype)
        return self.out(_join(F.scaled_dot_product_attention(query, memory.keys, memory.values, attn_mask=mask)))


class Block(nn.Module):
    """Self-attention, optional cross-attention, feed-forward; each behind a norm and added back."""

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float, *, cross: bool) -> None:
        super().__init__()
        self.norm_attention, self.attention = nn.RMSNorm(width), SelfAttention(width, heads)
        self.norm_cross = nn.RMSNorm(width) if cross else None
        self.cross = CrossAttention(width, heads) if cross else None
        self.norm_feed = nn.RMSNorm(width)
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
        memory_mask: Tensor | None = None,
        cache: KeyValues | None = None,
        step: Step | None = None,
    ) -> Tensor:
        attended = self.attention(self.norm_attention(x), angles, causal=causal, cache=cache, step=step)
        x = x + self.dropout(attended)
        if self.cross and self.norm_cross:
            assert memory is not None, "a block with cross-attention needs a memory"
            x = x + self.dropout(self.cross(self.norm_cross(x), angles, memory, memory_mask))
        return x + self.dropout(self.feed(self.norm_feed(x)))


def _split(x: Tensor, heads: int) -> Tensor:
    """[B, S, D] → [B, H, S, D / H]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _join(x: Tensor) -> Tensor:
    """[B, H, S, D / H] → [B, S, D]."""
    return x.transpose(1, 2).flatten(2)
