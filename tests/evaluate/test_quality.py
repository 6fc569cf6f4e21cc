"""Distances between sets of clips: each against closed forms or a second implementation, and fair for few clips."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist

from v2meow.evaluate import quality, sound
from v2meow.evaluate.resampling import interval
from v2meow.evaluate.statistics import LEVEL, paired, worse_by

RATE = 16_000


def _normal(count: int, width: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(width, width))
    return random.normal(size=(count, width)) @ mixing * scale + shift


@pytest.mark.parametrize("count", [200, 5])
def test_frechet_distance_is_that_of_the_textbook(count):
    """Against the matrix square root, also where fewer clips than dimensions leave a covariance without inverse."""
    one, other = _normal(count, 8, 0), _normal(300, 8, 1, shift=0.5, scale=1.5)
    covariances = [np.cov(each, rowvar=False) for each in (one, other)]
    gap = one.mean(0) - other.mean(0)
    root = np.real(sqrtm(covariances[0] @ covariances[1]))
    expected = gap @ gap + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert quality.frechet_distance(one, other) == pytest.approx(expected, rel=1e-4)


def test_frechet_distance_of_normals_tends_to_its_closed_form():
    """In one dimension it is the squared differences of means and of deviations."""
    random = np.random.default_rng(0)
    one, other = random.normal(1, 2, (20_000, 1)), random.normal(0, 1, (20_000, 1))
    assert quality.frechet_distance(one, other) == pytest.approx(1 + 1, abs=0.1)


def test_the_limit_takes_away_what_few_clips_add():
    """Equal distributions must not look different because one has 48 clips, nor a small set worse than a large one."""
    reference = _normal(1000, 8, 0)
    plain = np.mean([quality.frechet_distance(_normal(48, 8, seed), reference) for seed in range(1, 9)])
    limit = np.mean([quality.frechet_limit(_normal(48, 8, seed), reference) for seed in range(1, 9)])
    assert plain > 1 and abs(limit) < 0.3 * plain


def test_the_jackknife_tells_the_spread_of_a_mean():
    samples = np.random.default_rng(0).normal(size=(50, 3))
    pseudo = quality.jackknife(lambda rows: float(rows[:, 0].mean()), samples)
    np.testing.assert_allclose(pseudo, samples[:, 0])
    low, high = quality.around(0.0, pseudo)
    assert high == -low == pytest.approx(1.96 * samples[:, 0].std(ddof=1) / 50**0.5, rel=1e-3)


def test_kernel_distance_is_the_unbiased_estimate_of_the_textbook():
    one, other = _normal(30, 4, 0), _normal(40, 4, 1, shift=0.3)
    width = np.median(cdist(other, other)[np.triu_indices(40, 1)])
    among, beside, across = (
        np.exp(-(cdist(a, b) ** 2) / (2 * width**2)) for a, b in ((one, one), (other, other), (one, other))
    )
    expected = (
        (among.sum() - 30) / (30 * 29) + (beside.sum() - 40) / (40 * 39) - 2 * across.mean()
    )  # Gretton et al. 2012, equation 3
    assert quality.kernel_values(one, other).mean() == pytest.approx(expected, abs=1e-9)


def test_kernel_values_tell_how_uncertain_the_distance_is():
    """Their spread is that of the distance over many samples: intervals from them must be neither wide nor narrow."""
    reference = _normal(200, 4, 0)
    values = [quality.kernel_values(_normal(60, 4, seed, shift=1.5), reference) for seed in range(1, 101)]
    true = np.std([each.mean() for each in values])
    told = np.mean([each.std(ddof=1) / 60**0.5 for each in values])
    assert told == pytest.approx(true, rel=0.25)


def test_kernel_distance_of_equal_distributions_is_zero_in_the_mean():
    """A biased estimate would call every small set bad."""
    reference = _normal(300, 4, 0)
    found = [quality.kernel_values(_normal(20, 4, seed), reference).mean() for seed in range(1, 61)]
    assert abs(np.mean(found)) < 3 * np.std(found) / 60**0.5 + 0.003 < 0.5 / 20


def test_density_and_coverage_tell_fidelity_from_diversity():
    """One good clip over and over is faithful and covers nothing; noise far away is neither."""
    reference = np.random.default_rng(0).normal(size=(300, 4))
    same = np.random.default_rng(1).normal(size=(300, 4))
    one = np.tile(reference.mean(0), (300, 1)) + 0.01 * same
    assert quality.density(same, reference) == pytest.approx(1, abs=0.15)
    assert quality.covered(same, reference).mean() > 0.9
    assert quality.density(one, reference) > 0.5 and quality.covered(one, reference).mean() < 0.3
    assert quality.density(same + 50, reference) == 0 == quality.covered(same + 50, reference).mean()


def test_divergence_is_in_nats_and_zero_for_the_same_label():
    real = np.array([[1.0, 0.0], [0.5, 0.5]])
    found = quality.divergence(real, np.array([[1.0, 0.0], [0.25, 0.75]]))
    assert found == pytest.approx([0, 0.5 * np.log(2) + 0.5 * np.log(2 / 3)], abs=1e-4)


def test_loudness_is_that_of_the_standard():
    """A stereo-channel's 997 Hz sine at full scale has -3.01 LUFS (BS.1770-4, annex 1); half as much 6 dB less."""
    sine = torch.sin(2 * torch.pi * 997 * torch.arange(2 * RATE) / RATE)
    music = torch.stack((sine, sine / 2, torch.zeros(2 * RATE)))
    assert sound.loudness(music, RATE) == pytest.approx([-3.01, -9.03, -70], abs=0.1)
    assert sound.loudness(music[:, : RATE // 10], RATE) == pytest.approx(-70)


def test_what_was_there_before_counts_as_repeated():
    """A held note is no repetition, though all its stretches are the same."""
    loop = torch.tensor([1, 2, 3, 4])
    ids = torch.stack((loop.repeat(3), torch.arange(12), torch.full((12,), 7)))
    assert sound.repeated_share(ids, 4).tolist() == [pytest.approx(8 / 12), 0, 0]


def test_a_loop_resembles_itself_and_noise_does_not():
    random = torch.Generator().manual_seed(0)
    bar = torch.randn(RATE, generator=random) * torch.linspace(1, 0, RATE)
    music = torch.stack((bar.repeat(4), torch.randn(4 * RATE, generator=random) * torch.rand(1)))
    loop, noise = sound.self_similarity(music, RATE)
    assert loop > 0.9 and noise < 0.3


def test_a_model_as_good_as_production_is_told_worse_once_in_a_thousand():
    """A gate asks ten of these: at 2.5 % each it would refuse every fifth good model."""
    random, worse = np.random.default_rng(5), 0
    for _ in range(100):
        ours, theirs = random.normal(size=(2, 64))
        worse += worse_by(paired(ours, theirs, "higher", seed=0)) > 0
    assert worse <= 1
    low, high = interval(random.normal(size=100), level=LEVEL, resamples=10_000)
    assert 0.25 < high - low < 1 and LEVEL > 0.99


@pytest.mark.parametrize(("better", "by"), [("higher", -1.0), ("lower", 1.0)])
def test_a_model_that_is_worse_on_most_clips_is_told_so(better, by):
    """In pairs: the clips differ far more among themselves than the models do."""
    clips = 10 * np.random.default_rng(0).normal(size=64)
    noise = 0.5 * np.random.default_rng(1).normal(size=64)
    assert 0.5 < worse_by(paired(clips + by + noise, clips, better, seed=0)) < 1
    assert worse_by(paired(clips - by + noise, clips, better, seed=0)) < 0


def test_clips_without_a_score_are_left_out_of_both():
    row = paired(np.array([1.0, np.nan, 3.0]), np.array([0.0, 9.0, 2.0]), "higher", seed=0)
    assert (row["count"], row["difference"], row["candidate"]) == (2, 1.0, 2.0)
