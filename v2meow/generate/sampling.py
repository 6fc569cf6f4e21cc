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


def step_keys(seed: int, steps: Tensor) -> Tensor:
    """The key of each step of a stream of random numbers: int64 of the shape of `steps`, from a seed of 64 bits."""
    low, high = torch.tensor([seed], dtype=torch.int64).view(torch.int32).to(steps.device)
    first = _mix(_mix(steps.to(torch.int32) ^ low) ^ high)
    second = _mix(_mix(first ^ _OTHER) ^ low)  # mixed once more than places are, so that none can cancel it
    return torch.stack((first, second | 1), -1).view(torch.int64)[..., 0]


def sample(logits: Tensor, config: SamplingConfig, keys: Tensor) -> Tensor:
    """Logits [Q, K, bins] → codes int64 [Q, K], drawn with the numbers of keys [Q]."""
    assert len(logits) == len(keys), (logits.shape, keys.shape)
    bins = logits.shape[-1]
    scaled, codes = logits.float(), None
    if 0 < config.top_k < bins:
        scaled, codes = scaled.topk(config.top_k, dim=-1, sorted=False)
    if config.temperature != 1:
        scaled = scaled / config.temperature
    # The exponential race: the smallest e / p is a draw from p, and needs no normalised p.
    noise = race(keys, _places(logits.shape[1], bins, codes, logits.device))
    winner = (nucleus(scaled, config.top_p) - noise).argmax(-1, keepdim=True)
    return (winner if codes is None else codes.gather(-1, winner))[..., 0]


def _places(levels: int, bins: int, codes: Tensor | None, device: torch.device) -> Tensor:
    """A number of its own for each code of each codebook: for codes [Q, K, C], or for all, [1, K, bins]."""
    if codes is None:
        return torch.arange(levels * bins, device=device).view(1, levels, bins)
    return codes + torch.arange(0, levels * bins, bins, device=device)[:, None]


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Logits [..., bins] with everything outside the likeliest codes that reach `top_p` at -inf."""
    if top_p >= 1:
        return logits
    ranked, places = logits.sort(dim=-1, descending=True)
    chances = ranked.softmax(-1)
    beyond = chances.cumsum(-1) - chances >= top_p  # the first is always kept
    return logits.masked_fill(torch.zeros_like(beyond).scatter(-1, places, beyond), -torch.inf)


def race(keys: Tensor, places: Tensor) -> Tensor:
    """Logarithms of independent exponential numbers: keys [Q], places [Q or 1, K, C] → [Q, K, C]."""
    low, odd = keys.contiguous().view(torch.int32).view(-1, 2, 1, 1).unbind(1)
    mixed = _mix(places.to(torch.int32) ^ low).mul_(odd)
    # The highest 24 bits, which are those that the product mixes best, as a number strictly between 0 and 1.
    uniform = _shift(mixed, 8).float().add_(0.5).mul_(2.0**-24)
    return uniform.log_().neg_().log_()


def _mix(x: Tensor) -> Tensor:
    """A bijection of int32, made in place, under which every input bit flips every output bit half of the time."""
    x.bitwise_xor_(_shift(x, 16)).mul_(_FIRST)
    x.bitwise_xor_(_shift(x, 15)).mul_(_SECOND)
    return x.bitwise_xor_(_shift(x, 16))


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right, which torch lacks for signed integers."""
    return (x >> bits).bitwise_and_((1 << (32 - bits)) - 1)
