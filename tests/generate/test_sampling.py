"""Draws follow the model's distribution, cut exactly where top-k and top-p say."""

from collections.abc import Iterable
from itertools import repeat

import pytest
import torch

from v2meow.config import SamplingConfig
from v2meow.generate.sampling import nucleus, race, sample, step_keys


def _config(temperature=1.0, top_k=0, top_p=1.0) -> SamplingConfig:
    return SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p, guide_video=1.0, guide_text=1.0)


def _keys(seeds: Iterable[int], steps: Iterable[int]) -> torch.Tensor:
    return torch.cat([step_keys(seed, torch.tensor([step])) for seed, step in zip(seeds, steps, strict=True)])


def _frequencies(logits: torch.Tensor, config: SamplingConfig, draws: int, along: str) -> torch.Tensor:
    """How often each code is drawn over many seeds, many steps or many codebooks."""
    if along == "codebooks":
        codes = sample(logits.expand(1, draws, -1), config, _keys([5], [0]))
    else:
        keys = _keys(range(draws), repeat(0, draws)) if along == "seeds" else step_keys(3, torch.arange(draws))
        codes = sample(logits.expand(draws, 1, -1), config, keys)
    return torch.bincount(codes.flatten(), minlength=len(logits)).double()


@pytest.mark.parametrize("along", ["seeds", "steps", "codebooks"])
@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_frequencies_are_those_of_the_softmax(temperature, along):
    """A chi-square statistic of 7 degrees of freedom exceeds 42 once in two million runs."""
    draws, logits = 40_000, torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5, -0.3, 1.4, 0.1])
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
    keys = step_keys(0, torch.arange(3000))
    for row in logits:
        codes = sample(row.expand(3000, 1, -1), _config(temperature, top_k, top_p), keys)
        assert set(codes.flatten().tolist()) == _kept_by_hand(row.tolist(), temperature, top_k, top_p)


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
    assert torch.equal(sample(logits, _config(temperature=1e-6), _keys(range(4), range(4))), logits.argmax(-1))


@pytest.mark.parametrize("top_k", [0, 5])
def test_a_row_draws_the_same_alone_and_in_company(top_k):
    """Served in a batch with strangers, a request must give the same music."""
    torch.manual_seed(0)
    logits, keys = torch.randn(3, 5, 16), _keys((7, 8, 9), (0, 4, 2))
    together = sample(logits, _config(top_k=top_k), keys)
    for row in range(3):
        own = slice(row, row + 1)
        assert torch.equal(sample(logits[own], _config(top_k=top_k), keys[own])[0], together[row])


def test_top_k_does_not_change_the_draws_that_it_allows():
    """The random number belongs to the code, not to its rank: a cut of the unlikely leaves all other music alone."""
    torch.manual_seed(0)
    logits, keys = 3 * torch.randn(1, 1, 50).expand(2000, -1, -1), step_keys(0, torch.arange(2000))
    all_of_them, likely = (sample(logits, _config(top_k=k), keys) for k in (0, 10))
    allowed = set(logits[0, 0].topk(10).indices.tolist())
    same = torch.tensor([code in allowed for code in all_of_them.flatten().tolist()])
    assert 0 < same.sum() < 2000
    assert torch.equal(all_of_them.flatten()[same], likely.flatten()[same])


@pytest.mark.parametrize("vary", ["seeds", "large seeds", "steps", "places"])
def test_random_numbers_are_those_of_independent_exponentials(vary):
    """Neighbouring seeds, steps or codes whose numbers go together would make takes alike, and tunes out of chance."""
    count, places = 400, torch.arange(500)[None, None]
    if vary == "places":
        numbers = race(_keys([3], [0]), torch.arange(count * 500)[None, None]).view(count, 500)
    else:
        seeds = {"seeds": range(count), "large seeds": range(0, count << 40, 1 << 40)}.get(vary, repeat(0, count))
        numbers = race(_keys(seeds, range(count) if vary == "steps" else repeat(0, count)), places)[:, 0]
    numbers = numbers.exp().double()
    assert numbers.mean().item() == pytest.approx(1.0, abs=0.012)
    assert numbers.var().item() == pytest.approx(1.0, abs=0.04)
    between = torch.corrcoef(numbers).fill_diagonal_(0)
    assert between.abs().max() < 6 / 500**0.5
    assert between.square().mean().item() * 500 == pytest.approx(1.0, abs=0.05)
