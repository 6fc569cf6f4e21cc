"""Drawing codes from logits: temperature, top-k, top-p, and random numbers that are a function of (seed, step, place).

Random numbers come from a counter, not from a generator's state: a request draws the same codes alone or in any
company, on any device, and from any step on, without waiting for the device.
"""

import torch
from torch import Tensor

from v2meow.config import SamplingConfig

# lowbias32, a 32-bit mixing function found by search (github.com/skeeto/hash-prospector), as signed constants.
_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B - 2**32
_OTHER = 0x1E3779B9


def random_numbers(seed: int, steps: Tensor, count: int) -> Tensor:
    """Uniform float32 numbers [S, count] strictly between 0 and 1, for each of `steps` [S] of a 64-bit seed."""
    low, high = torch.tensor([seed], dtype=torch.int64).view(torch.int32).to(steps.device)
    key = _mix(_mix(steps.to(torch.int32) ^ low) ^ high)
    other = _mix(_mix(key ^ _OTHER) ^ low)  # mixed once more than places are, so that none can cancel it
    places = torch.arange(count, dtype=torch.int32, device=steps.device)
    mixed = _mix(_mix(places ^ key[:, None]) ^ other[:, None])
    return (_shift(mixed, 8).float() + 0.5) * 2.0**-24


def sample(logits: Tensor, config: SamplingConfig, numbers: Tensor) -> Tensor:
    """Logits [..., bins] and a uniform number each [...] → codes int64 [...].

    What is drawn is the first code, in their own order, at which the cumulative probability reaches the number.
    """
    logits = logits.float()
    if 0 < config.top_k < logits.shape[-1]:
        lowest = logits.topk(config.top_k, dim=-1, sorted=False).values.amin(-1, keepdim=True)
        logits = logits.masked_fill(logits < lowest, -torch.inf)
    reached = nucleus(logits / config.temperature, config.top_p).softmax(-1).cumsum(-1)
    return (reached < numbers[..., None] * reached[..., -1:]).sum(-1)  # the last may lie a little beside 1


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Logits [..., bins] with everything outside the likeliest codes that reach `top_p` at -inf."""
    if top_p >= 1:
        return logits
    ranked, places = logits.sort(dim=-1, descending=True)
    chances = ranked.softmax(-1)
    beyond = chances.cumsum(-1) - chances >= top_p  # the first is always kept
    return logits.masked_fill(torch.zeros_like(beyond).scatter(-1, places, beyond), -torch.inf)


def _mix(x: Tensor) -> Tensor:
    """A bijection of int32, made in place, under which every input bit flips every output bit half of the time."""
    x.bitwise_xor_(_shift(x, 16)).mul_(_FIRST)
    x.bitwise_xor_(_shift(x, 15)).mul_(_SECOND)
    return x.bitwise_xor_(_shift(x, 16))


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right, which torch lacks for signed integers."""
    return (x >> bits).bitwise_and_((1 << (32 - bits)) - 1)
