"""Draws follow the model's distribution, cut exactly where top-k and top-p say."""

import pytest
import torch

from v2meow.config import SamplingConfig
from v2meow.generate.sampling import filter_logits, sample


def _config(temperature=1.0, top_k=0, top_p=1.0) -> SamplingConfig:
    return SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p, guide_video=1.0, guide_text=1.0)


def _frequencies(logits: torch.Tensor, config: SamplingConfig, draws: int) -> torch.Tensor:
    codes = sample(logits.expand(1, draws, -1), config, [torch.Generator().manual_seed(0)])
    return torch.bincount(codes[0], minlength=len(logits)).double()


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_frequencies_are_those_of_the_softmax(temperature):
    """A chi-square statistic of 7 degrees of freedom exceeds 42 once in two million runs."""
    draws, logits = 40_000, torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5, -0.3, 1.4, 0.1])
    expected = (logits.double() / temperature).softmax(-1) * draws
    found = _frequencies(logits, _config(temperature), draws)
    assert ((found - expected) ** 2 / expected).sum() < 42


def test_frequencies_after_filters_are_those_of_what_is_left():
    draws, logits = 40_000, torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5])
    found = _frequencies(logits, _config(top_k=2), draws)
    expected = torch.tensor([1.0, 2.0]).double().softmax(-1) * draws
    assert found[[0, 2, 4]].sum() == 0
    assert ((found[[1, 3]] - expected) ** 2 / expected).sum() < 24  # 1 degree of freedom


def _kept_by_hand(logits: list[float], temperature: float, top_k: int, top_p: float) -> set[int]:
    """The smallest set of likeliest codes that reaches `top_p` of what top-k leaves."""
    ranked = sorted(range(len(logits)), key=lambda code: -logits[code])[: top_k or None]
    chances = torch.tensor([logits[code] / temperature for code in ranked]).double().softmax(-1).tolist()
    kept, reached = set(), 0.0
    for code, chance in zip(ranked, chances, strict=True):
        if reached >= top_p and top_p < 1:
            break
        kept.add(code)
        reached += chance
    return kept


@pytest.mark.parametrize("temperature", [0.5, 1.0])
@pytest.mark.parametrize("top_k", [0, 1, 3, 20, 99])
@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.9, 1.0])
def test_filters_keep_exactly_what_they_say(temperature, top_k, top_p):
    """One code too many is the unlikely one that is heard as a click."""
    torch.manual_seed(0)
    logits = 2 * torch.randn(6, 3, 20)
    filtered = filter_logits(logits, _config(temperature, top_k, top_p))
    for row, left in zip(logits.view(-1, 20), filtered.view(-1, 20), strict=True):
        kept = _kept_by_hand(row.tolist(), temperature, top_k, top_p)
        assert set(left.isfinite().nonzero().flatten().tolist()) == kept
        torch.testing.assert_close(left[sorted(kept)], row[sorted(kept)] / temperature)


def test_a_temperature_towards_zero_takes_the_likeliest():
    torch.manual_seed(0)
    logits = torch.randn(4, 100, 16)
    generators = [torch.Generator().manual_seed(row) for row in range(4)]
    assert torch.equal(sample(logits, _config(temperature=1e-6), generators), logits.argmax(-1))


def test_a_row_draws_the_same_alone_and_in_company():
    """Served in a batch with strangers, a request must give the same music."""
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 16)
    together = sample(logits, _config(), [torch.Generator().manual_seed(seed) for seed in (7, 8, 9)])
    for row, seed in enumerate((7, 8, 9)):
        alone = sample(logits[row : row + 1], _config(), [torch.Generator().manual_seed(seed)])
        assert torch.equal(alone[0], together[row])
