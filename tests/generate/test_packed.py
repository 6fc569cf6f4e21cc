"""Weights of 5 bits: how they are laid out, what they lose, and that every processor unpacks the same."""

import pytest
import torch
from numba import njit

from v2meow.generate.native.packed import (
    BLOCK,
    BLOCK_BYTES,
    GROUP,
    MAGNITUDES,
    line_bytes,
    pack,
    padded,
    unpack,
    unpacker,
)


def _weights(width: int, outs: int = 24) -> torch.Tensor:
    """Trained weights are about normal; lines of other sizes, one of zeros, and one with an outlier among them."""
    random = torch.Generator().manual_seed(width)
    weight = torch.randn(outs, width, generator=random) * torch.linspace(1, 40, outs)[:, None]
    weight[3], weight[5, 7] = 0, 127
    return weight.round().clamp(-127, 127).to(torch.int8)


def _plainly_unpacked(packed: torch.Tensor, width: int) -> torch.Tensor:
    """From the layout as it is described, one part after the other."""
    blocks = packed.view(torch.uint8).unflatten(1, (-1, BLOCK_BYTES))
    magnitudes, signs, sizes = blocks.split([BLOCK // 2, BLOCK // 8, BLOCK // GROUP], 2)
    places = torch.cat((magnitudes & 15, magnitudes >> 4), 2).flatten(1).long()
    negative = torch.stack([signs >> bit & 1 for bit in range(8)], -1).flatten(1).bool()
    found = torch.from_numpy(MAGNITUDES).long()[sizes.flatten(1).long().repeat_interleave(GROUP, 1), places]
    return torch.where(negative, -found, found)[:, :width].to(torch.int8)


@pytest.mark.parametrize("width", [8, 64, 128, 160, 1024])
def test_packed_weights_are_read_as_they_are_laid_out(width):
    packed = pack(_weights(width))
    assert packed.dtype == torch.int8 and packed.shape[1] == line_bytes(padded(width))
    assert torch.equal(unpack(packed, width), _plainly_unpacked(packed, width))


def test_packed_weights_take_two_thirds_of_the_room():
    assert line_bytes(4096) / 4096 == 41 / 64


def test_little_is_lost_at_any_size_of_weights():
    """A size of its own for each group: beside an outlier, the rest of its line must not become coarse."""
    weight = _weights(1024)
    found = unpack(pack(weight), 1024)
    lost = (found.float() - weight).norm(dim=1) / weight.float().norm(dim=1)
    assert not found[3].any()
    assert lost[4:].max() < 0.07 and lost[0] < 0.5  # the first line's weights are -3 … 3


def test_the_largest_weights_keep_their_sign_and_size():
    weight = torch.tensor([[-127, 127] * 64], dtype=torch.int8)
    assert torch.equal(unpack(pack(weight), 128), weight)


def test_processors_without_its_instructions_unpack_the_same():
    packed, plain = pack(_weights(256)), unpacker(plain=True)

    @njit
    def unpacked(packed, weight):
        for out in range(len(packed)):
            plain(packed[out].ctypes.data, weight[out].ctypes.data, weight.shape[1])

    weight = torch.zeros(len(packed), 256, dtype=torch.int8)
    unpacked(packed.numpy(), weight.numpy())
    assert torch.equal(weight, unpack(packed, 256))
