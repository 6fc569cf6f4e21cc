"""Draws follow the model's distribution, cut exactly where top-k and top-p say."""

from functools import cache

import pytest
import torch

from v2meow.config import SamplingConfig
from v2meow.generate.sampling import nucleus, random_numbers, sample


def _config(temperature=1.0, top_k=0, top_p=1.0) -> SamplingConfig:
    return SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p, guide_video=1.0, guide_text=1.0)


@cache
def _numbers(draws: int, along: str) -> torch.Tensor:
    """One number for each of many seeds, many steps or many codebooks."""
    if along == "codebooks":
        return random_numbers(5, torch.tensor([0]), draws)[0]
    if along == "seeds":
        return torch.cat([random_numbers(seed, torch.tensor([0]), 1)[0] for seed in range(draws)])
    return random_numbers(3, torch.arange(draws), 1)[:, 0]


def _frequencies(logits: torch.Tensor, config: SamplingConfig, draws: int, along: str) -> torch.Tensor:
    """How often each code is drawn."""
    numbers = _numbers(draws, along)
    return torch.bincount(sample(logits.expand(draws, -1), config, numbers), minlength=len(logits)).double()


@pytest.mark.parametrize("along", ["seeds", "steps", "codebooks"])
@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_frequencies_are_those_of_the_softmax(temperature, along):
    """A chi-square statistic of 7 degrees of freedom exceeds 42 once in two million runs."""
    draws, logits = 10_000 if along == "seeds" else 40_000, torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5, -0.3, 1.4, 0.1])
    expected = (logits.double() / temperature).softmax(-1) * draws
    found = _frequencies(logits, _config(temperature), draws, along)
    assert ((found - expected) ** 2 / expected).sum() < 42


def test_frequencies_after_filters_are_those_of_what_is_left():
    draws, logits = 40_000, torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5])
    found = _frequencies(logits, _config(top_k=2), draws, "steps")
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
    """One code too many is the unlikely one that is heard as a click. Flat logits, so that all that is kept shows."""
    torch.manual_seed(0)
    logits = 0.3 * torch.randn(6, 20)
    numbers = random_numbers(0, torch.arange(3000), 1)[:, 0]
    for row in logits:
        codes = sample(row.expand(3000, -1), _config(temperature, top_k, top_p), numbers)
        assert set(codes.tolist()) == _kept_by_hand(row.tolist(), temperature, top_k, top_p)


@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.9])
def test_the_nucleus_is_the_smallest_set_that_reaches_its_share(top_p):
    torch.manual_seed(0)
    logits = 2 * torch.randn(6, 3, 20)
    for row, left in zip(logits.view(-1, 20), nucleus(logits, top_p).view(-1, 20), strict=True):
        kept = _kept_by_hand(row.tolist(), 1.0, 0, top_p)
        assert set(left.isfinite().nonzero().flatten().tolist()) == kept
        assert torch.equal(left[sorted(kept)], row[sorted(kept)])


def test_a_temperature_towards_zero_takes_the_likeliest():
    torch.manual_seed(0)
    logits = torch.randn(4, 100, 16)
    assert torch.equal(sample(logits, _config(temperature=1e-6), torch.rand(4, 100)), logits.argmax(-1))


@pytest.mark.parametrize("number", [2.0**-25, 0.5, 1 - 2.0**-24])
@pytest.mark.parametrize("top_k", [0, 5])
def test_the_outermost_numbers_draw_codes_that_are_possible(number, top_k):
    """Rounding at the ends would otherwise draw a code of no probability, or one that does not exist."""
    torch.manual_seed(0)
    logits = 3 * torch.randn(50, 16)
    logits[:, [0, 15]] = -torch.inf
    codes = sample(logits, _config(top_k=top_k), torch.full((50,), number))
    assert (logits.gather(1, codes[:, None]) > -torch.inf).all()


@pytest.mark.parametrize("top_k", [0, 5])
def test_a_row_draws_the_same_alone_and_in_company(top_k):
    """Served in a batch with strangers, a request must give the same music."""
    torch.manual_seed(0)
    logits, numbers = torch.randn(3, 5, 16), random_numbers(7, torch.arange(3), 5)
    together = sample(logits, _config(top_k=top_k), numbers)
    for row in range(3):
        own = slice(row, row + 1)
        assert torch.equal(sample(logits[own], _config(top_k=top_k), numbers[own])[0], together[row])


@pytest.mark.parametrize("vary", ["seeds", "large seeds", "steps", "places"])
def test_random_numbers_are_uniform_and_independent(vary):
    """Neighbouring seeds, steps or places whose numbers go together would make takes alike, and tunes out of chance."""
    count, first = 400, torch.tensor([0])
    if vary == "places":
        numbers = random_numbers(3, first, count * 500).view(count, 500)
    elif vary == "steps":
        numbers = random_numbers(3, torch.arange(count), 500)
    else:
        seeds = range(count) if vary == "seeds" else range(0, count << 40, 1 << 40)
        numbers = torch.cat([random_numbers(seed, first, 500) for seed in seeds])
    numbers = numbers.double()
    assert numbers.min() > 0 and numbers.max() < 1
    assert numbers.mean().item() == pytest.approx(1 / 2, abs=0.004)
    assert numbers.var().item() == pytest.approx(1 / 12, abs=0.001)
    between = torch.corrcoef(numbers).fill_diagonal_(0)
    assert between.abs().max() < 6 / 500**0.5
    assert between.square().mean().item() * 500 == pytest.approx(1.0, abs=0.05)
    counts = torch.bincount((numbers.flatten() * 64).long(), minlength=64).double()
    expected = numbers.numel() / 64
    assert ((counts - expected) ** 2 / expected).sum() < 130  # 63 degrees of freedom: once in a million runs
