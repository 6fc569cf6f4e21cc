"""Drawing codes from logits: temperature, top-k, top-p, and one random stream a request.

Each row draws from a generator of its own, so a request gives the same codes alone or in a batch.
"""

import torch
from torch import Tensor

from v2meow.config import SamplingConfig


def sample(logits: Tensor, config: SamplingConfig, generators: list[torch.Generator]) -> Tensor:
    """Logits [B, K, bins] → codes int64 [B, K], row b drawn with generators[b]."""
    assert len(generators) == logits.shape[0], (len(generators), logits.shape)
    filtered = filter_logits(logits.float(), config)
    # The exponential race: the smallest e / p is a draw from p, and needs no normalised p.
    race = torch.stack(
        [torch.empty(logits.shape[1:]).exponential_(generator=generator) for generator in generators]
    ).to(logits.device)
    return (filtered - race.log()).argmax(-1)


def filter_logits(logits: Tensor, config: SamplingConfig) -> Tensor:
    """Logits [..., bins] over temperature, with everything outside top-k and top-p at -inf."""
    logits = logits / config.temperature
    if 0 < config.top_k < logits.shape[-1]:
        least = logits.topk(config.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if config.top_p < 1:
        ranked, places = logits.sort(dim=-1, descending=True)
        chances = ranked.softmax(-1)
        beyond = chances.cumsum(-1) - chances >= config.top_p  # the first is always kept
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(-1, places, beyond), -torch.inf)
    return logits
