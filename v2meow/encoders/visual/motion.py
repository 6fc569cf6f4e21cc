"""Visual features without weights: colour, edges, motion and cuts of small frames.

Chosen for what music follows in a picture and for contrast invariance: speed is measured as normal
flow (frame difference over gradient), so that a dim object counts as much as a bright one.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

HUES, EDGES, DIRECTIONS, GRID = 12, 12, 8, 4
WIDTH = 6 + HUES + EDGES + 1 + DIRECTIONS + 5 + GRID * GRID


class Motion:
    """The extractor; it has no state."""

    width = WIDTH

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Features float32 [V, WIDTH] of squeezed RGB frames uint8 [V, S, S, 3], one row a frame."""
        return motion(frames)


@torch.inference_mode()
def motion(frames: np.ndarray) -> np.ndarray:
    """Features float32 [V, WIDTH] of RGB frames uint8 [V, S, S, 3], one row a frame.

    Motion of frame i is measured against frame i - 1; the first frame takes the motion of the second.
    """
    assert frames.ndim == 4, frames.shape
    assert frames.shape[3] == 3, frames.shape
    planes = torch.from_numpy(frames).permute(3, 0, 1, 2).contiguous().float().div_(255)  # [3, V, S, S]: whole colours
    grey = planes.mean(0)
    horizontal, vertical = _gradient(grey)
    parts = (
        planes.mean((2, 3)).T,
        _spread(planes).T,
        _hues(planes),
        _edge_orientations(horizontal, vertical),
        _movement(grey, horizontal, vertical),
        F.adaptive_avg_pool2d(grey[:, None], GRID).flatten(1),
    )
    return torch.cat(parts, dim=1).numpy()


def _spread(planes: Tensor) -> Tensor:
    """Standard deviations [3, V]; torch's own goes through pixels one by one."""
    beside = (planes - planes.mean((2, 3), keepdim=True)).square_()
    return (beside.sum((2, 3)) / (planes[0, 0].numel() - 1)).sqrt_()


def _gradient(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences [V, S, S] of slightly blurred frames: compression noise is no edge."""
    padded = _framed(grey)
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    padded = _framed((rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]).div_(9))
    return (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2, (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2


def _framed(pictures: Tensor) -> Tensor:
    """Pictures [V, S, S] with their outermost pixels once more: [V, S + 2, S + 2]."""
    return F.pad(pictures[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]


def _histogram(angle: Tensor, weight: Tensor, bins: int, period: float) -> Tensor:
    """Circular histogram [V, bins] of angles [V, …] with linear interpolation between bins, summing to 1."""
    place, weight = (angle * (bins / period)).flatten(1).remainder_(bins), weight.flatten(1)
    low = place.floor()
    beyond = place.sub_(low).mul_(weight)  # what the bin after `low` has of it
    low = low.long()
    out = torch.zeros(len(low), bins + 2)  # those behind are the first two: a place can be rounded to `bins`
    out.scatter_add_(1, low, weight - beyond)
    out[:, 1:].scatter_add_(1, low, beyond)
    out[:, :2] += out[:, bins:]
    return out[:, :bins] / out[:, :bins].sum(1, keepdim=True).clamp(min=1e-6)


def _hues(planes: Tensor) -> Tensor:
    """Hue histogram [V, HUES], weighted by chroma, so that grey pixels do not vote."""
    red, green, blue = planes
    highest, lowest = torch.maximum(red, green), torch.minimum(red, green)
    chroma = torch.maximum(highest, blue) - torch.minimum(lowest, blue)
    hue = torch.atan2(3**0.5 * (green - blue), 2 * red - green - blue)
    return _histogram(hue, chroma, HUES, 2 * torch.pi)


def _edge_orientations(horizontal: Tensor, vertical: Tensor) -> Tensor:
    """Histogram of unsigned edge orientations and the log of the mean edge strength: [V, EDGES + 1]."""
    strength = torch.hypot(horizontal, vertical)
    histogram = _histogram(torch.atan2(vertical, horizontal), strength.square(), EDGES, torch.pi)
    return torch.cat((histogram, torch.log(strength.mean((1, 2), keepdim=True)[:, 0] + 1e-4)), dim=1)


def _movement(grey: Tensor, horizontal: Tensor, vertical: Tensor) -> Tensor:
    """Direction histogram, speed, moving share, difference, signed change and cut score: [V, DIRECTIONS + 5]."""
    change = torch.diff(grey, dim=0, prepend=grey[:1])
    strength = torch.hypot(horizontal, vertical)
    edge = strength > 0.02
    speed = (change.abs() / strength.clamp(min=0.02)) * edge  # pixels a frame along the gradient
    sign = -torch.sign(change)
    directions = _histogram(torch.atan2(sign * vertical, sign * horizontal), speed, DIRECTIONS, 2 * torch.pi)
    moving = (change.abs() > 0.02).float().mean((1, 2))
    levels = torch.stack([torch.histc(picture, 16, 0, 1) for picture in grey]) / grey[0].numel()
    cut = torch.diff(levels, dim=0, prepend=levels[:1]).abs().sum(1)
    speed = speed.sum((1, 2)) / edge.sum((1, 2)).clamp(min=1)
    figures = torch.stack((speed, moving, change.abs().mean((1, 2)), change.mean((1, 2)), cut), dim=1)
    rows = torch.cat((directions, figures), dim=1)
    if len(rows) > 1:
        rows[0] = rows[1]
    return rows
