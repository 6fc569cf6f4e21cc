"""One decoding step of a stage's blocks, for rows of different lengths behind one preallocated cache.

The same arithmetic as TokenLM.forward, with nothing in between: one call into PyTorch costs as much as the arithmetic
of a small model, so a step makes as few as it can. Weights of norms are multiplied into the layers behind them, tables
of embeddings stand in one, and query, key and value are turned by their rotary angles together. On CPUs the step is
compiled as a whole, see `native`.

Where weights are rounded, keys and values are kept in float16: with long windows, or many rows, a step reads as much
of them as of weights.

Legend: n rows, K codebooks, D width, H heads, P places of the cache, M places of memory.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from v2meow.generate.linear import Precision, lower
from v2meow.model.lm import TokenLM
from v2meow.model.transformer import Block, KeyValues, rotary

Linear = Callable[[Tensor], Tensor]

_LANES = 16  # places and numbers that `native` reads at a time: the cache holds whole ones


@dataclass(frozen=True)
class Place:
    """Where a step's rows are, and what they may see; the same for all layers.

    `at` [n] is the number of each row's step, `place` [n] where its keys and values go, `heard` [n] how much of its
    memory is filled. `span` is above every place, `memory` no less than what any row has heard; `level` when all
    rows are at the last place before `span`, `even` when all have heard `memory`.
    """

    at: Tensor
    place: Tensor
    heard: Tensor
    span: int
    memory: int
    level: bool
    even: bool


class Storage:
    """Keys and values of one attention in one tensor [rows, 2, H, P, D / H], which may be less precise than both."""

    def __init__(self, both: Tensor) -> None:
        self.both = both

    def rows(self, first: int, end: int) -> KeyValues:
        """The storage of rows `first` … `end` - 1."""
        return KeyValues(self.both[first:end, 0], self.both[first:end, 1])

    def seen(self, rows: int, span: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The first `span` keys and values of the first `rows` rows: [rows, H, span, D / H] each."""
        used = self.both[:rows, :, :, :span].to(dtype)
        return used[:, 0], used[:, 1]


@dataclass(frozen=True)
class _Layer:
    """What one block does, as plain calls."""

    qkv: Linear
    out: Linear
    query: Linear | None
    cross_out: Linear | None
    up: Linear
    down: Linear


class Decoder:
    """A stage's model with storage for `rows` rows of `places` places and `memory` places of memory."""

    def __init__(
        self, model: TokenLM, precision: Precision, *, rows: int, steps: int, places: int, memory: int
    ) -> None:
        """Takes `model` over: use it through the decoder only, or for conditions."""
        fold_norms(model)
        lower(model, precision)
        self.model, spec = model, model.spec
        like, self._heads, self._half = model.norm.weight, spec.heads, model.head_width // 2
        rounded = precision != "float32" and like.dtype == torch.float32  # else all computes in what it is kept in
        dtype = torch.float16 if rounded else like.dtype
        width = -(-model.head_width // _LANES) * _LANES

        def storage(layers: int, count: int) -> Tensor:
            shape = (layers, rows, 2, spec.heads, -(-count // _LANES) * _LANES, width)
            return torch.zeros(shape, dtype=dtype, device=like.device)

        self.all_cache = storage(spec.layers, places)
        self.all_memory = storage(spec.layers if spec.encoder_layers else 0, memory)
        self.cache = [Storage(part[..., : model.head_width]) for part in self.all_cache]
        memories = [Storage(part[..., : model.head_width]) for part in self.all_memory]
        self.memory = memories or [None] * spec.layers
        self.table = _one_table(model.embed)
        self._first_rows = torch.arange(spec.target.levels, device=like.device) * (spec.target.bins + 1)
        self.angles = _angles(model, steps)
        self._shape, self._dtype = (spec.width,), like.dtype
        self._layers = [_layer(block) for block in model.blocks]  # type: ignore[arg-type]
        self._places = torch.arange(max(places, memory), device=like.device)

    def step(self, inputs: Tensor, here: Place) -> Tensor:
        """Logits float32 [n, K, bins] of the codes after inputs [n, K]."""
        rows, width = len(inputs), self.model.spec.width
        x = F.embedding(inputs + self._first_rows, self.table).sum(1)
        cos, sin = self.angles[here.at].unbind(1)  # [n, 3, 1, 1, D / H]
        mask = None if here.level else self._reach(here.place + 1, here.span)
        memory_mask = None if here.even else self._reach(here.heard, here.memory)
        where = here.place.view(-1, 1, 1, 1, 1).expand(rows, 2, self._heads, 1, 2 * self._half)
        for layer, cache, memory in zip(self._layers, self.cache, self.memory, strict=True):
            qkv = layer.qkv(F.layer_norm(x, self._shape)).view(rows, 3, self._heads, 1, -1)
            turned = torch.addcmul(qkv * cos, qkv.roll(self._half, -1), sin).to(x.dtype)
            cache.both[:rows].scatter_(3, where, turned[:, 1:].to(cache.both.dtype))
            keys, values = cache.seen(rows, here.span, x.dtype)
            mixed = F.scaled_dot_product_attention(turned[:, 0], keys, values, attn_mask=mask)
            x = x + layer.out(mixed.reshape(rows, width))
            if memory and layer.query and layer.cross_out:
                query = layer.query(F.layer_norm(x, self._shape)).view(rows, self._heads, 1, -1)
                query = torch.addcmul(query * cos[:, 0], query.roll(self._half, -1), sin[:, 0]).to(x.dtype)
                keys, values = memory.seen(rows, here.memory, x.dtype)
                mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=memory_mask)
                x = x + layer.cross_out(mixed.reshape(rows, width))
            x = x + layer.down(layer.up(F.layer_norm(x, self._shape)))
        return self.model.head(F.layer_norm(x, self._shape)).float().view(rows, len(self._first_rows), -1)

    def _reach(self, length: Tensor, span: int) -> Tensor:
        """Additive mask [n, 1, 1, span]: the first `length` [n] places may be seen."""
        hidden = self._places[:span] >= length[:, None]
        reach = torch.zeros(hidden.shape, device=hidden.device, dtype=self._dtype)
        return reach.masked_fill_(hidden, -torch.inf)[:, None, None]


@torch.no_grad()
def fold_norms(model: TokenLM) -> None:
    """Multiply the weights of every norm into the layer behind it, in place: the model computes the same."""
    pairs: list[tuple[nn.Module | None, nn.Module]] = [(model.norm, model.head)]
    for block in model.blocks:
        assert isinstance(block, Block)
        pairs += [(block.norm_attention, block.attention.qkv), (block.norm_feed, block.feed[0])]
        if block.cross:
            pairs.append((block.norm_cross, block.cross.query))
    for norm, linear in pairs:
        assert isinstance(norm, nn.LayerNorm) and isinstance(linear, nn.Linear)
        linear.weight.mul_(norm.weight)
        norm.weight.fill_(1)


def _angles(model: TokenLM, steps: int) -> Tensor:
    """Cosines and signed sines [steps, 2, 3, 1, 1, D / H] of every step, for queries, keys and values: these stay."""
    cos, sin = rotary(torch.arange(steps, device=model.norm.weight.device) * model.step_seconds, model.head_width)
    turned = torch.stack((cos, cos, torch.ones_like(cos)), 1), torch.stack((sin, sin, torch.zeros_like(sin)), 1)
    return torch.stack(turned, 1)[:, :, :, None, None]


def _layer(block: Block) -> _Layer:
    """Bound `forward`s: a module's own call looks for hooks first."""
    cross = block.cross
    up, activation, down = block.feed

    def activated(x: Tensor) -> Tensor:
        return activation.forward(up.forward(x))

    return _Layer(
        qkv=block.attention.qkv.forward,
        out=block.attention.out.forward,
        query=cross.query.forward if cross else None,
        cross_out=cross.out.forward if cross else None,
        up=activated,
        down=down.forward,
    )


@torch.no_grad()
def _one_table(embed: nn.ModuleList) -> Tensor:
    """All embeddings in one table [K * (bins + 1), D], of which each becomes a part."""
    table = torch.cat([part.weight for part in embed])  # type: ignore[misc]
    for part, rows in zip(embed, table.chunk(len(embed)), strict=True):
        part.weight = nn.Parameter(rows, requires_grad=False)
    return table
