"""Training refines the codec, and the measures that judge it mean what they say."""

import math
from dataclasses import replace

import pytest
import tiny
import torch

from v2meow.config import LappedCodecConfig
from v2meow.encoders.codec import LappedCodec
from v2meow.encoders.codec.adversarial import Discriminator
from v2meow.encoders.codec.measures import buzz_db, mel_distance, si_sdr
from v2meow.train.adversary import Balancer
from v2meow.train.codec import codec_loss, reconstruction, train_codec


@pytest.fixture(scope="module")
def music() -> torch.Tensor:
    """Sixteen pieces of two seconds: chords of five partials with a beat."""
    random = torch.Generator().manual_seed(0)
    time = torch.arange(32_000) / 16_000
    pitch = 110 * 2 ** (torch.randint(0, 36, (16, 5, 1), generator=random) / 12)
    beat = torch.exp(-4 * (time * 2 % 1))
    return 0.1 * (torch.sin(2 * math.pi * pitch * time).sum(1) * beat)


def _config(**changes) -> LappedCodecConfig:
    config = tiny.recipe().codec
    assert isinstance(config, LappedCodecConfig)
    return replace(config, **changes)


def _trained(music, steps, seed=0, **changes) -> LappedCodec:
    torch.manual_seed(seed)
    given = {"bins": 64, "steps": steps, "batch": 4, "learning_rate": 1e-3, "sample_frames": 3000} | changes
    codec, losses = LappedCodec(_config(**given)), []
    train_codec(codec, music, seed, losses.append)
    assert len(losses) == steps
    return codec


def test_training_refines_what_k_means_began(music):
    """It must not undo it: moving averages that start from nothing would empty the codebooks at the first step."""
    began, trained = (_trained(music[:8], steps) for steps in (0, 40))
    with torch.no_grad():
        assert codec_loss(trained, music[8:]) < 0.99 * codec_loss(began, music[8:])  # on music it has not heard
    before, after = (reconstruction(codec, music[8:]) for codec in (began, trained))
    assert after["si_sdr_db"] > before["si_sdr_db"] and after["mel_distance"] < before["mel_distance"]
    assert 0.8 < after["codebook_use"] <= 1
    assert after["kilobits_per_second"] == pytest.approx(50 * 4 * 6 / 1000)


def test_the_seed_alone_decides_the_codec(music):
    first, again, other = (_trained(music, 3, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_the_transform_stays_fixed(music):
    """Trained along, it would stop being its own inverse. It is not stored either: the recipe says it all."""
    fresh, trained = LappedCodec(_config()), _trained(music, 3)
    before, after = dict(fresh.named_buffers()), dict(trained.named_buffers())
    fixed = [name for name in before if name.startswith(("analysis.", "synthesis."))]
    assert len(fixed) == 3  # two bases and a bias
    assert all(torch.equal(after[name], before[name]) for name in fixed)
    assert not set(fixed) & {*fresh.state_dict(), *(name for name, _ in fresh.named_parameters())}


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


def test_a_buzz_is_found_at_the_frame_rate_and_nowhere_else(music):
    """A comb in the error is told by how far it stands out; errors without one, tones among them, are none."""
    time = torch.arange(32_000) / 16_000
    comb = torch.stack([torch.cos(2 * math.pi * 25 * n * time) for n in range(1, 320)]).sum(0).expand(16, -1)
    noise = torch.randn(16, 32_000, generator=torch.Generator().manual_seed(0))

    def buzz(error: torch.Tensor, frame_rate: float = 25) -> float:
        return buzz_db(music + error, music, 16_000, frame_rate)

    loud, soft = (buzz(0.001 * (share * comb + noise)) for share in (1.0, 0.1))
    assert loud > soft + 10 and soft > 1.5
    assert abs(buzz(0.001 * (comb + noise), 30)) < 1.5
    assert abs(buzz(0.01 * noise)) < 1 and abs(buzz(0.1 * music + 0.001 * noise)) < 1
    assert buzz(torch.zeros(1)) == 0


def test_the_discriminator_tells_apart_and_its_losses_fall_where_it_is_deceived(music):
    torch.manual_seed(0)
    judge, real = Discriminator(4), music[:2, :16_000]
    fake = 0.1 * torch.randn(2, 16_000)
    optimizer = torch.optim.Adam(judge.parameters(), 0.02)
    began = judge.loss(real, fake).item()
    for _ in range(8):
        optimizer.zero_grad()
        judge.loss(real, fake).backward()
        optimizer.step()
    assert judge.loss(real, fake).item() < began - 0.01
    refused, taken = judge.generator_losses(real, fake), judge.generator_losses(real, real)
    assert taken[0] < refused[0] and taken[1] == 0 < refused[1]


def test_the_balancer_gives_each_loss_its_share_whatever_its_scale():
    """A discriminator whose loss grows a thousandfold must not take over."""
    output = torch.zeros(2, 5, requires_grad=True)
    for scale in (1.0, 1000.0):
        losses = {"mel": 3 * output[0].sum(), "adversarial": scale * output[1].sum()}
        gradient = Balancer({"mel": 1.0, "adversarial": 3.0}).gradient(losses, output)
        assert gradient[1].norm().item() == pytest.approx(3 * gradient[0].norm().item())
        assert gradient[0].norm().item() == pytest.approx(3 * 5**0.5 / 4)  # the first loss's own norm, its share


def test_training_against_the_discriminator_changes_the_codec(music):
    plain, judged = (_trained(music, 3, adversarial_weight=weight, discriminator_filters=2) for weight in (0.0, 3.0))
    differing = [
        name for name, value in plain.state_dict().items() if not torch.equal(value, judged.state_dict()[name])
    ]
    assert any(name.startswith("decoder.") for name in differing)
    assert judged.decode(judged.encode(music)).isfinite().all()
