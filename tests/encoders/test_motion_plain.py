"""The features of motion are computed in few passes; each sum is what its plain definition says."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from v2meow.encoders.visual.motion import _gradient, _histogram, _spread  # the passes, which no caller sees


def _noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("period", [np.pi, 2 * np.pi])
def test_a_histogram_divides_each_weight_between_the_two_bins_beside_its_angle(period):
    """Angles on an edge, just below nought and beyond the period included."""
    special = torch.tensor([0.0, -1e-9, period, -period / 2, 5 * period, period / 12])
    angles = torch.cat(((_noise(3, 500) - 0.5) * 4 * period, special.expand(3, -1)), 1)
    weights = _noise(*angles.shape)
    plain = np.zeros((3, 12))
    for row in range(3):
        for angle, weight in zip(angles[row].double().numpy(), weights[row].double().numpy(), strict=True):
            place = angle / period * 12 % 12
            low, share = int(place) % 12, place % 1
            plain[row, low] += weight * (1 - share)
            plain[row, (low + 1) % 12] += weight * share
    plain /= plain.sum(1, keepdims=True)
    found = _histogram(angles.reshape(3, 11, 46), weights.reshape(3, 11, 46), 12, period)
    assert np.abs(found.numpy() - plain).max() < 1e-6


def test_the_spread_of_colours_is_their_standard_deviation():
    planes = _noise(3, 2, 16, 16)
    assert torch.allclose(_spread(planes), planes.double().flatten(2).std(2).float(), atol=1e-6)


def test_gradients_are_differences_of_pictures_averaged_over_three_by_three_pixels():
    grey = _noise(2, 9, 9)
    blurred = F.avg_pool2d(F.pad(grey[:, None], (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    around = F.pad(blurred, (1, 1, 1, 1), mode="replicate")[:, 0]
    horizontal, vertical = _gradient(grey)
    assert torch.allclose(horizontal, (around[:, 1:-1, 2:] - around[:, 1:-1, :-2]) / 2, atol=1e-6)
    assert torch.allclose(vertical, (around[:, 2:, 1:-1] - around[:, :-2, 1:-1]) / 2, atol=1e-6)
