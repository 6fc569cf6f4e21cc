"""Attention as vector instructions, and what is kept for it, against plain arithmetic."""

import numpy as np
import pytest
import tiny
import torch
from torch.nn import functional as F

from v2meow.config import SamplingConfig
from v2meow.generate.decoder import Decoder
from v2meow.generate.native.dots import INT8, OUTS
from v2meow.generate.native.heads import Scratch, attend, keep
from v2meow.generate.native.products import columns
from v2meow.generate.native.state import NativeState
from v2meow.generate.native.vectors import LANES
from v2meow.generate.native.weights import Matrices, padded
from v2meow.generate.state import State

CAPACITY = 64  # places
DTYPES = [torch.float32, torch.float16]
SAMPLING = SamplingConfig(temperature=1.0, top_k=0, top_p=1.0, guide_video=1.0, guide_text=1.0)


def _storage(dtype: torch.dtype, head_width: int, beyond: float = 0.0) -> torch.Tensor:
    """Keys and values [2, CAPACITY, numbers in whole vectors]; what is behind a head's width is zero."""
    both = torch.full((2, CAPACITY, padded(head_width)), beyond, dtype=dtype)
    both[..., :head_width] = torch.randn(2, CAPACITY, head_width, generator=torch.Generator().manual_seed(head_width))
    return both


def _attention(query: torch.Tensor, both: torch.Tensor, places: int) -> torch.Tensor:
    width = both.shape[-1]
    out, longer = torch.full((len(query),), torch.nan), F.pad(query, (0, width - len(query)))
    scratch = Scratch(np.full(CAPACITY, np.nan, np.float32), np.zeros(LANES, np.float32), np.zeros(width, np.float32))
    at = both[0].data_ptr(), both[1].data_ptr()
    attend(both.dtype == torch.float16, longer.numpy(), *at, places, width // LANES, scratch, at[0], out.numpy())
    return out


@pytest.mark.parametrize("head_width", [2, 16, 32, 40, 64, 80, 128])
@pytest.mark.parametrize("places", [1, 7, 15, 16, 17, CAPACITY])
@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_is_that_of_pytorch(dtype, places, head_width):
    """Heads of one vector, of several, and of a part of one; the last places of a vector are nobody's."""
    both, query = _storage(dtype, head_width), 3 * torch.randn(head_width)
    keys, values = both[:, :places, :head_width].float()
    expected = F.scaled_dot_product_attention(query[None], keys, values)[0]
    torch.testing.assert_close(_attention(query, both, places), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_may_be_so_far_apart_that_exponentials_vanish(dtype):
    both, query = _storage(dtype, 32), 900 * torch.randn(32)
    keys, values = both[:, :20].float()
    expected = F.scaled_dot_product_attention(query[None], keys, values)[0]
    torch.testing.assert_close(_attention(query, both, 20), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("stale", [torch.nan, torch.inf, 1e30])
@pytest.mark.parametrize("places", [1, 7, 16, 33])
@pytest.mark.parametrize("dtype", DTYPES)
def test_places_beyond_the_last_do_not_matter_to_the_last_bit(dtype, places, stale):
    """Whole vectors of places are read, and another request's keys stand in those that are not this one's."""
    both, query = _storage(dtype, 64), torch.randn(64)
    clean = _attention(query, both, places)
    both[:, places:] = stale
    assert torch.equal(_attention(query, both, places), clean)


def test_halves_are_rounded_as_pytorch_rounds():
    """The plain step and prefixes write through PyTorch: ties to even, subnormal numbers, infinity."""
    random = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    numbers = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16).view(torch.float16).float()
    between = (numbers[:-1] + numbers[1:]) / 2  # ties, where both are numbers
    odd = torch.tensor([65519.996, 65520.0, -65536.0, 3.4e38, 1e-40, -0.0, torch.inf, 2**-25, 1.001 * 2**-25])
    x = torch.cat((random, odd, random * 1e-5, random * 1e-7, numbers, between)).nan_to_num(
        posinf=torch.inf, neginf=-torch.inf
    )
    found = np.zeros(len(x), np.uint16)
    keep(x.numpy(), found, True)
    assert torch.equal(torch.from_numpy(found).view(torch.int16), x.half().view(torch.int16))
    whole = np.zeros(2 * len(x), np.uint16)
    keep(x.numpy(), whole, False)
    assert (whole.view(np.float32) == x.numpy()).all()


@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.float16), ("int8", torch.float16)]
)
def test_keys_and_values_take_half_the_room_where_weights_are_rounded(precision, dtype):
    """They are as much as the weights are, at the size of the paper. What precision float32 computes stays exact."""
    model = tiny.model("semantic")
    decoder = Decoder(model, precision, rows=3, steps=9, places=20, memory=5)
    assert decoder.all_cache.dtype == decoder.all_memory.dtype == dtype
    assert decoder.all_cache.shape[-2] == 32 and decoder.all_memory.shape[-2] == LANES
    assert decoder.all_cache.shape[-1] == LANES
    assert all(part.both.shape[-1] == model.head_width for part in decoder.cache)


@pytest.mark.parametrize("state", [State, NativeState])
@pytest.mark.parametrize("precision", ["float32", "int8"])
@torch.inference_mode()
def test_a_row_moves_with_all_its_keys(state, precision):
    """The last row moves into the gap that another has left."""
    made = state(tiny.model("semantic"), SAMPLING, precision, 3, 0.4)
    for part in (*made.decoder.cache, *made.decoder.memory):
        part.both[2] = torch.randn(part.both[2].shape)
    made.move_row(2, 0)
    for part in (made.decoder.all_cache, made.decoder.all_memory):
        assert torch.equal(part[:, 0], part[:, 2]) and part[:, 0].any()


@pytest.mark.parametrize("threads", [1, 2, 3])
@torch.inference_mode()
def test_each_threads_weights_begin_where_its_columns_do(threads):
    """What comes next is fetched from there: elsewhere, it would be fetched in vain."""
    model = tiny.model("semantic")
    matrices = Matrices(model)
    begins = matrices.begins(threads)
    assert begins.shape == (threads, len(model.blocks) + 1, 6)
    for place, outs, ins in ((0, 96, 32), (4, 64, 32), (5, 32, 64)):
        for thread in range(threads):
            first, _ = columns(np.zeros((1, outs), np.float32), thread, threads)
            assert begins[thread, 1, place] - matrices.addresses[1, place] == first * ins * 4
    assert OUTS == 8 and matrices.kind != INT8
