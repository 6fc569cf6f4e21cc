"""All matrices that a step reads, in one buffer, in the order in which it reads them."""

import torch
from torch import Tensor, nn

from v2meow.generate.linear import RoundedLinear
from v2meow.generate.native import packed
from v2meow.generate.native.dots import BFLOAT16, FLOAT16, FLOAT32, INT5, INT8, OFFSET, OUTS, STRIDES
from v2meow.generate.native.vectors import LANES
from v2meow.model.lm import TokenLM
from v2meow.model.transformer import Block

_KINDS = {torch.float32: FLOAT32, torch.float16: FLOAT16, torch.bfloat16: BFLOAT16, torch.int8: INT8}
_A_BLOCK = 6  # matrices: see `step`


class Matrices:
    """The matrices of `model`'s blocks and head, of which its layers become views.

    `kind` is that of all but the feed-forward layers', which are of `feed_kind`. `addresses` [blocks + 1, 6], `scales`
    and `offsets` [blocks + 1, 6, O] are as `step` reads them; matrices that a stage does not have stand at 0. Rows and
    columns are padded with zeros to whole vectors.
    """

    def __init__(self, model: TokenLM) -> None:
        blocks = [_layers(block) for block in model.blocks]  # type: ignore[arg-type]
        lines = [*blocks, [model.head]]
        layers = [layer for line in lines for layer in line if layer]
        self.kind = _KINDS[layers[0].weight.dtype]  # type: ignore[index]
        self.feed_kind = INT5 if _packed(blocks[0][-1]) else self.kind
        sizes = [padded(layer.weight.shape[0]) * self._wide(layer) for layer in layers]  # type: ignore[index]
        self.buffer = torch.zeros(sum(sizes), dtype=layers[0].weight.dtype)  # type: ignore[call-overload]
        self.addresses, self._outs, self._apart = torch.zeros(3, len(lines), _A_BLOCK, dtype=torch.int64)
        tallest = max(padded(layer.weight.shape[0]) for layer in layers) if self.kind == INT8 else 0  # type: ignore
        self.scales = torch.zeros(len(lines), _A_BLOCK, tallest)
        self.offsets = torch.zeros(len(lines), _A_BLOCK, tallest, dtype=torch.int32)
        parts = iter(self.buffer.split(sizes))
        for number, line in enumerate(lines):
            for place, layer in enumerate(line):
                if layer:
                    part = next(parts)
                    self.addresses[number, place] = part.data_ptr()
                    self._outs[number, place] = padded(layer.weight.shape[0])  # type: ignore[index]
                    self._apart[number, place] = self._wide(layer) * part.element_size()
                    self._take(layer, part)
                    if isinstance(layer, RoundedLinear) and layer.scale is not None:
                        self.scales[number, place, : len(layer.scale)] = layer.scale
                        self.offsets[number, place, : len(layer.scale)] = OFFSET * _sums(layer)

    def begins(self, threads: int) -> Tensor:
        """Addresses [threads, blocks + 1, 6] at which each thread's share of each matrix begins, see `columns`."""
        first = [self._outs // OUTS * thread // threads * OUTS for thread in range(threads)]
        return torch.stack([self.addresses + rows * self._apart for rows in first])

    def _wide(self, layer: nn.Module) -> int:
        width: int = layer.weight.shape[1]  # type: ignore[index]
        return width if _packed(layer) else padded(width, STRIDES[self.kind])

    def _take(self, layer: nn.Module, part: Tensor) -> None:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        view = part.view(-1, self._wide(layer))[: weight.shape[0], : weight.shape[1]]
        view.copy_(weight)
        layer.weight = nn.Parameter(view, requires_grad=False) if isinstance(layer, nn.Linear) else view


def _packed(layer: nn.Module | None) -> bool:
    return isinstance(layer, RoundedLinear) and layer.columns is not None


def _sums(layer: RoundedLinear) -> Tensor:
    """The sum [O] of each output's weights, with those that pad a line: in packed lines, they need not be nought."""
    return layer.integers(None if layer.columns is None else packed.padded(layer.columns)).sum(1)


def padded(count: int, stride: int = LANES) -> int:
    """`count` rounded up to whole vectors."""
    return -(-count // stride) * stride


def _layers(block: Block) -> list[nn.Module | None]:
    """The matrices of a block in the order of their numbers in `step`."""
    cross = block.cross
    return [
        block.attention.qkv,
        block.attention.out,
        cross.query if cross else None,
        cross.out if cross else None,
        block.feed[0],
        block.feed[2],
    ]
