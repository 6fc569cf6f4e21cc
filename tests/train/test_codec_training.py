"""Training refines the codec, and the measures that judge it mean what they say."""

import math
from dataclasses import replace

import pytest
import tiny
import torch

from v2meow.encoders.codec import Codec
from v2meow.train.codec import codec_loss, mel_distance, reconstruction, si_sdr, train_codec


@pytest.fixture(scope="module")
def music() -> torch.Tensor:
    """Sixteen pieces of two seconds: chords of five partials with a beat."""
    random = torch.Generator().manual_seed(0)
    time = torch.arange(32_000) / 16_000
    pitch = 110 * 2 ** (torch.randint(0, 36, (16, 5, 1), generator=random) / 12)
    beat = torch.exp(-4 * (time * 2 % 1))
    return 0.1 * (torch.sin(2 * math.pi * pitch * time).sum(1) * beat)


def _trained(music, steps, seed=0) -> Codec:
    torch.manual_seed(seed)
    codec, losses = Codec(replace(tiny.recipe().codec, bins=64, steps=steps, batch=4, learning_rate=1e-3)), []
    train_codec(codec, music, seed, losses.append)
    assert len(losses) == steps
    return codec


def test_training_refines_what_k_means_began(music):
    """It must not undo it: moving averages that start from nothing would empty the codebooks at the first step."""
    began, trained = (_trained(music[:8], steps) for steps in (0, 40))
    with torch.no_grad():
        assert codec_loss(trained, music[8:]) < 0.98 * codec_loss(began, music[8:])  # on music it has not heard
    before, after = (reconstruction(codec, music[8:]) for codec in (began, trained))
    assert after["si_sdr_db"] > before["si_sdr_db"] and after["mel_distance"] < before["mel_distance"]
    assert 0.8 < after["codebook_use"] <= 1
    assert after["kilobits_per_second"] == pytest.approx(50 * 4 * 6 / 1000)


def test_the_seed_alone_decides_the_codec(music):
    first, again, other = (_trained(music, 3, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_the_transform_stays_fixed(music):
    """Trained along, it would stop being its own inverse."""
    fresh, trained = Codec(tiny.recipe().codec).state_dict(), _trained(music, 3).state_dict()
    fixed = [name for name in fresh if name.startswith(("analysis.", "synthesis."))]
    assert len(fixed) == 3  # two bases and a bias
    assert all(torch.equal(trained[name], fresh[name]) for name in fixed)


def test_si_sdr_is_the_power_of_the_signal_over_that_of_the_noise():
    torch.manual_seed(0)
    signal, noise = torch.randn(1, 100_000), torch.randn(1, 100_000)
    for decibels in (0.0, 10.0, 30.0):
        estimate = 0.3 * (signal + noise * 10 ** (-decibels / 20))
        assert si_sdr(estimate, signal).item() == pytest.approx(decibels, abs=0.1)
    assert si_sdr(torch.zeros(1, 10), torch.zeros(1, 10)).isfinite().all()


def test_mel_distance_is_the_difference_of_levels(music):
    """Twice as loud is ln 2 wherever the sound is above the floor."""
    noise = torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0))
    assert mel_distance(music, music, 16_000) == 0
    assert mel_distance(2 * noise, noise, 16_000).item() == pytest.approx(math.log(2), abs=0.01)
