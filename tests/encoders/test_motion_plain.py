"""The features of motion are computed in few passes; each sum is what its plain definition says."""

from importlib import import_module

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from v2meow.encoders.visual import motion
from v2meow.encoders.visual.motion import (  # the passes, which no caller sees
    DIRECTIONS,
    EDGES,
    GRID,
    HUES,
    LEVELS,
    _gradient,
    _histogram,
    _levels,
    _moved,
    _spread,
)

_MODULE = import_module("v2meow.encoders.visual.motion")  # the package has a function of this name


def _noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def _frames(count: int, size: int = 32) -> np.ndarray:
    """Pictures [count, size, size, 3] of a disc that moves over coloured noise, black and white ones among them."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    inside = np.stack([np.hypot(x - 4 - 0.6 * place, y - size / 2) < size / 5 for place in range(count)])[..., None]
    frames = np.where(inside, (250, 80, 30), random.integers(20, 60, (count, size, size, 3))).astype(np.uint8)
    frames[count // 2], frames[count // 3] = 0, 255
    return frames


def _plain(frames: np.ndarray) -> np.ndarray:
    """The features by their definitions, all pictures at once, each with its own histograms."""
    planes = torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 255
    grey = planes.mean(0)
    horizontal, vertical = _gradient(grey)
    strength = torch.hypot(horizontal, vertical)
    red, green, blue = planes
    hue = torch.atan2(3**0.5 * (green - blue), 2 * red - green - blue)
    edges = _plain_histogram(torch.atan2(vertical, horizontal), strength.square(), EDGES, torch.pi)
    parts = (
        planes.mean((2, 3)).T,
        planes.flatten(2).std(2).T,
        _plain_histogram(hue, planes.amax(0) - planes.amin(0), HUES, 2 * torch.pi),
        edges,
        torch.log(strength.mean((1, 2)) + 1e-4)[:, None],
        _plain_movement(grey, horizontal, vertical),
        F.adaptive_avg_pool2d(grey[:, None], GRID).flatten(1),
    )
    return torch.cat(parts, dim=1).numpy()


def _plain_histogram(angle: torch.Tensor, weight: torch.Tensor, bins: int, period: float) -> torch.Tensor:
    place, weight = (angle.flatten(1) * (bins / period)) % bins, weight.flatten(1)
    low = place.floor()
    out = torch.zeros(len(place), bins + 2)
    out.scatter_add_(1, low.long(), weight * (1 - (place - low)))
    out.scatter_add_(1, low.long() + 1, weight * (place - low))
    out[:, :2] += out[:, bins:]
    return out[:, :bins] / out[:, :bins].sum(1, keepdim=True).clamp(min=1e-6)


def _plain_movement(grey: torch.Tensor, horizontal: torch.Tensor, vertical: torch.Tensor) -> torch.Tensor:
    change, strength = torch.diff(grey, dim=0, prepend=grey[:1]), torch.hypot(horizontal, vertical)
    edge, sign = strength > 0.02, -torch.sign(change)
    speed = (change.abs() / strength.clamp(min=0.02)) * edge
    directions = _plain_histogram(torch.atan2(sign * vertical, sign * horizontal), speed, DIRECTIONS, 2 * torch.pi)
    levels = torch.stack([torch.histc(picture, LEVELS, 0, 1) for picture in grey]) / grey[0].numel()
    figures = (
        speed.sum((1, 2)) / edge.sum((1, 2)).clamp(min=1),
        (change.abs() > 0.02).float().mean((1, 2)),
        change.abs().mean((1, 2)),
        change.mean((1, 2)),
        torch.diff(levels, dim=0, prepend=levels[:1]).abs().sum(1),
    )
    rows = torch.cat((directions, torch.stack(figures, dim=1)), dim=1)
    rows[0] = rows[min(1, len(rows) - 1)]
    return rows


@pytest.mark.parametrize(("count", "size"), [(1, 32), (2, 32), (41, 32), (41, 64), (7, 30)])
def test_rows_are_what_their_plain_definitions_say(count, size):
    """More pictures than are computed at once, fewer, and a size that no grid divides."""
    frames = _frames(count, size)
    found, plain = motion(frames), _plain(frames)
    assert found.shape == plain.shape
    assert np.abs(found - plain).max() <= 1e-6


@pytest.mark.parametrize("at_once", [1, 3 * 32 * 32, 1 << 20])
def test_rows_do_not_depend_on_how_many_are_computed_at_once(at_once, monkeypatch):
    """A picture moves against the one before it, which may have been computed with those before."""
    frames = _frames(10)
    usual = motion(frames)
    monkeypatch.setattr(_MODULE, "_PIXELS_AT_ONCE", at_once)
    assert (motion(frames) == usual).all()


def test_pictures_that_stand_still_have_the_rows_that_each_would_have(monkeypatch):
    """At the beginning, in the middle and at the end; the first that is repeated is the last that moves."""
    frames = _frames(5)[[0, 0, 0, 1, 2, 2, 3, 3, 3, 3, 2, 4, 4, 4]]
    assert _moved(frames).tolist() == [True, True, False, *[True] * 5, False, False, True, True, True, False]
    found = motion(frames)
    monkeypatch.setattr(_MODULE, "_moved", lambda frames: np.ones(len(frames), bool))
    assert (found == motion(frames)).all()


def test_levels_are_a_histogram_of_each_picture():
    """Black and white belong to the first and to the last."""
    grey = _noise(3, 8, 12)
    grey[0, 0], grey[1] = torch.linspace(0, 1, 12), 1.0
    plain = torch.stack([torch.histc(picture, LEVELS, 0, 1) for picture in grey]) / 96
    assert (_levels(grey) == plain).all()


@pytest.mark.parametrize("bins", [8, 12])
@pytest.mark.parametrize("period", [np.pi, 2 * np.pi])
def test_a_histogram_divides_each_weight_between_the_two_bins_beside_its_angle(period, bins):
    """Angles on an edge, just below nought, at both ends and beyond the period included."""
    special = torch.tensor([0.0, -1e-9, period, -period, -period / 2, 2 * period, period / bins])
    angles = torch.cat(((_noise(3, 499) * 3 - 1) * period, special.expand(3, -1)), 1)
    weights = _noise(*angles.shape)
    plain = np.zeros((3, bins))
    for row in range(3):
        for angle, weight in zip(angles[row].double().numpy(), weights[row].double().numpy(), strict=True):
            place = angle / period * bins % bins
            low, share = int(place) % bins, place % 1
            plain[row, low] += weight * (1 - share)
            plain[row, (low + 1) % bins] += weight * share
    plain /= plain.sum(1, keepdims=True)
    found = _histogram(angles.reshape(3, 11, 46), weights.reshape(3, 11, 46), bins, period)
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
