"""Attention with rotary positions in time, against attention written out by hand."""

import pytest
import torch

from v2meow.model.transformer import (
    NEAR,
    Block,
    CrossAttention,
    KeyValues,
    SelfAttention,
    near_bias,
    rotary,
    rotate,
)


def _scores(query, key, query_times, key_times):
    rotated = rotate(query, rotary(query_times, 8)), rotate(key, rotary(key_times, 8))
    return rotated[0] @ rotated[1].transpose(-1, -2)


def test_attention_sees_differences_of_time_alone():
    """A window from the middle of a piece must be heard as one from its beginning."""
    torch.manual_seed(0)
    query, key = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 6, 8)
    query_times, key_times = torch.arange(4) / 50, torch.arange(6) / 25
    here = _scores(query, key, query_times, key_times)
    torch.testing.assert_close(here, _scores(query, key, query_times + 3, key_times + 3), atol=1e-3, rtol=1e-3)
    assert (here - _scores(query, key, query_times + 0.1, key_times)).abs().max() > 0.1


def test_the_same_time_is_rotary_distance_zero_at_any_rate():
    """10 Hz pictures, 25 Hz ids and 50 Hz codes meet without learning an alignment."""
    for slow in (10, 25):
        cos, sin = rotary(torch.arange(20) / slow, 8)
        fast_cos, fast_sin = rotary(torch.arange(100) / 50, 8)
        torch.testing.assert_close(cos, fast_cos[:: 50 // slow][:20])
        torch.testing.assert_close(sin, fast_sin[:: 50 // slow][:20])


def _by_hand(query, key, value, heads, causal):
    """Softmax attention, one head and one query after the other."""
    out = torch.zeros_like(query)
    size = query.shape[-1] // heads
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for step in range(query.shape[1]):
            seen = slice(0, step + 1 if causal else key.shape[1])
            weights = (query[0, step, part] @ key[0, seen, part].T / size**0.5).softmax(-1)
            out[0, step, part] = weights @ value[0, seen, part]
    return out


@pytest.mark.parametrize("causal", [True, False])
def test_self_attention_is_attention(causal):
    torch.manual_seed(0)
    attention, x = SelfAttention(16, 2), torch.randn(1, 5, 16)
    still = rotary(torch.zeros(5), 8)  # all at one time: no rotation
    query, key, value = attention.qkv(x).chunk(3, dim=-1)
    expected = attention.out(_by_hand(query, key, value, 2, causal))
    torch.testing.assert_close(attention(x, still, causal=causal), expected)


def test_cross_attention_is_attention_to_the_memory():
    torch.manual_seed(0)
    attention, x, memory = CrossAttention(16, 2), torch.randn(1, 5, 16), torch.randn(1, 7, 16)
    key, value = attention.key_value(memory).chunk(2, dim=-1)
    expected = attention.out(_by_hand(attention.query(x), key, value, 2, causal=False))
    given = attention.project(memory, rotary(torch.zeros(7), 8))
    torch.testing.assert_close(attention(x, rotary(torch.zeros(5), 8), given), expected)


def test_a_block_leaves_its_keys_and_values_in_the_cache():
    """Decoding goes on from them; those of another time would be another past."""
    torch.manual_seed(0)
    block, x, angles = Block(16, 2, 32, 0.0, cross=False), torch.randn(2, 5, 16), rotary(torch.arange(5) / 50, 8)
    cache = KeyValues(torch.full((2, 2, 9, 8), 7.0), torch.full((2, 2, 9, 8), 7.0))
    torch.testing.assert_close(block(x, angles, causal=True, cache=cache), block(x, angles, causal=True))
    _, key, value = block.attention.qkv(block.norm_attention(x)).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
    torch.testing.assert_close(cache.keys[:, :, :5], rotate(key, angles))
    torch.testing.assert_close(cache.values[:, :, :5], value)
    assert (cache.keys[:, :, 5:] == 7).all() and (cache.values[:, :, 5:] == 7).all()


@pytest.mark.parametrize("cross", [True, False])
@torch.inference_mode()
def test_a_block_whose_output_nobody_wants_leaves_the_same_in_its_cache(cross):
    torch.manual_seed(0)
    block, x, angles = Block(16, 2, 32, 0.0, cross=cross), torch.randn(2, 5, 16), rotary(torch.arange(5) / 50, 8)
    memory = KeyValues(*torch.randn(2, 2, 2, 3, 8)) if cross else None
    whole, alone = (KeyValues(*torch.full((2, 2, 2, 9, 8), 7.0)) for _ in range(2))
    block(x, angles, causal=True, memory=memory, cache=whole)
    block.fill(x, angles, alone)
    assert torch.equal(whole.keys, alone.keys) and torch.equal(whole.values, alone.values)


def test_a_full_cache_refuses_more():
    """Written past its end, it would silently forget."""
    cache = KeyValues(torch.zeros(1, 2, 2, 8), torch.zeros(1, 2, 2, 8))
    with pytest.raises(AssertionError):
        cache.fill(torch.ones(1, 2, 3, 8), torch.ones(1, 2, 3, 8))


@pytest.mark.parametrize("shape", [(3, 5, 8), (2, 4, 5, 8)])
def test_rotation_turns_pairs_of_numbers_by_their_angle(shape):
    """Written out as complex numbers: the fast form must turn the same pairs the same way."""
    torch.manual_seed(0)
    x, times = torch.randn(shape), torch.arange(5) / 50
    angle = times[:, None] * 50.0 * 10_000.0 ** -(torch.arange(0, 8, 2) / 8)
    turned = torch.complex(*x.chunk(2, -1)) * torch.polar(torch.ones_like(angle), angle)
    torch.testing.assert_close(rotate(x, rotary(times, 8)), torch.cat((turned.real, turned.imag), -1))


def test_half_of_the_heads_begin_by_looking_at_their_own_time():
    """Without this start the coarse stage had not found the ids of its own time after 300 steps."""
    width, heads = 32, 2
    constant = near_bias(width, heads).view(1, 1, heads, width // heads).transpose(1, 2)  # a query or key of bias alone
    times = torch.arange(0, 100) / 50
    keys = rotate(constant.expand(1, heads, 100, -1), rotary(times, width // heads))
    query = rotate(constant, rotary(times[40:41], width // heads))
    scores = (query @ keys.transpose(2, 3))[0, :, 0]
    assert scores[0].argmax() == 40
    assert torch.equal(scores[1], torch.zeros(100))


def test_both_kinds_of_attention_start_near():
    for attention in (SelfAttention(32, 2), CrossAttention(32, 2)):
        attention.prefer_near()
        biases = torch.cat([p for name, p in attention.named_parameters() if name.endswith("bias")])
        assert (biases == NEAR).sum() == 16  # half of one head's width, for its query and its key
