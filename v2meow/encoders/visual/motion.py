"""Visual features without weights: colour, edges, motion and cuts of small frames.

Chosen for what music follows in a picture and for contrast invariance: speed is measured as normal
flow (frame difference over gradient), so that a dim object counts as much as a bright one.
"""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

HUES, EDGES, DIRECTIONS, LEVELS, GRID = 12, 12, 8, 16, 4
WIDTH = 6 + HUES + EDGES + 1 + DIRECTIONS + 5 + GRID * GRID
_MOVEMENT = slice(6 + HUES + EDGES + 1, WIDTH - GRID * GRID)
_SLOW, _EDGE = 0.02, 0.02  # a change, and the strength of a gradient, from which on they count
_PIXELS_AT_ONCE = 1 << 16  # what is computed of so many stays in a processor's own cache


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
    moved = _moved(frames)
    parts, before = [], None
    for some in torch.from_numpy(frames[moved]).split(max(1, _PIXELS_AT_ONCE // frames[0, :, :, 0].size)):
        planes = some.permute(3, 0, 1, 2).contiguous().float().div_(255)  # [3, v, S, S]: whole colours
        grey = planes.mean(0)
        parts.append(_rows(planes, torch.cat((grey[:1] if before is None else before, grey))))
        before = grey[-1:]
    rows = torch.cat(parts)
    if len(rows) > 1:
        rows[0, _MOVEMENT] = rows[1, _MOVEMENT]
    return rows.numpy()[np.cumsum(moved) - 1]


def _moved(frames: np.ndarray) -> np.ndarray:
    """Which frames [V] have rows of their own: one that equals both before it has the row of the one before.

    There are many such where a video ends before its last clip does, or shows slides.
    """
    pictures = (frame.tobytes() for frame in frames)  # compared faster than arrays
    still = np.array([False, *(before == picture for before, picture in pairwise(pictures))])
    return ~(still & np.roll(still, 1))


def _rows(planes: Tensor, grey: Tensor) -> Tensor:
    """Features [v, WIDTH] of colours [3, v, S, S], and of greys [v + 1, S, S] that begin with the picture before."""
    horizontal, vertical = _gradient(grey[1:])
    strength, angle = torch.hypot(horizontal, vertical), torch.atan2(vertical, horizontal)
    parts = (
        planes.mean((2, 3)).T,
        _spread(planes).T,
        _hues(planes),
        _edge_orientations(strength, angle),
        _movement(grey, strength, angle),
        F.adaptive_avg_pool2d(grey[1:, None], GRID).flatten(1),
    )
    return torch.cat(parts, dim=1)


def _spread(planes: Tensor) -> Tensor:
    """Standard deviations [3, V]; torch's own goes through pixels one by one."""
    beside = (planes - planes.mean((2, 3), keepdim=True)).square_()
    return (beside.sum((2, 3)) / (planes[0, 0].numel() - 1)).sqrt_()


def _gradient(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences [V, S, S] of slightly blurred frames: compression noise is no edge."""
    padded = _framed(grey)
    rows = (padded[:, :-2] + padded[:, 1:-1]).add_(padded[:, 2:])
    padded = _framed((rows[:, :, :-2] + rows[:, :, 1:-1]).add_(rows[:, :, 2:]).div_(9))
    across, down = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2], padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    return across.div_(2), down.div_(2)


def _framed(pictures: Tensor) -> Tensor:
    """Pictures [V, S, S] with their outermost pixels once more: [V, S + 2, S + 2]."""
    return F.pad(pictures[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]


def _above(values: Tensor, least: float) -> Tensor:
    """1 where a value is above `least`, else 0: as numbers, for truth values are slow to make and to add."""
    return torch.gt(values, least, out=torch.empty_like(values))


def _histogram(angle: Tensor, weight: Tensor, bins: int, period: float) -> Tensor:
    """Circular histogram [V, bins] of angles [V, …] with linear interpolation between bins, summing to 1.

    Angles are from -period to 2 * period.
    """
    place, weight = (angle * (bins / period)).flatten(1), weight.flatten(1)
    place.add_(torch.lt(place, 0.0, out=torch.empty_like(place)), alpha=bins)  # `remainder` takes five times as long
    low = place.floor()
    beyond = place.sub_(low).mul_(weight)  # what the bin after `low` has of it
    low = low.long()
    out = torch.zeros(len(low), 3 * bins)
    out.scatter_add_(1, low, weight - beyond)
    out[:, 1:].scatter_add_(1, low, beyond)
    out = out.view(-1, 3, bins).sum(1)  # all that go round more often than once
    return out / out.sum(1, keepdim=True).clamp(min=1e-6)


def _hues(planes: Tensor) -> Tensor:
    """Hue histogram [V, HUES], weighted by chroma, so that grey pixels do not vote."""
    red, green, blue = planes
    highest, lowest = torch.maximum(red, green), torch.minimum(red, green)
    chroma = torch.maximum(highest, blue).sub_(torch.minimum(lowest, blue))
    hue = torch.atan2((green - blue).mul_(3**0.5), (2 * red).sub_(green).sub_(blue))
    return _histogram(hue, chroma, HUES, 2 * torch.pi)


def _edge_orientations(strength: Tensor, angle: Tensor) -> Tensor:
    """Histogram of unsigned edge orientations and the log of the mean edge strength: [V, EDGES + 1]."""
    histogram = _histogram(angle, strength.square(), EDGES, torch.pi)
    return torch.cat((histogram, torch.log(strength.mean((1, 2), keepdim=True)[:, 0] + 1e-4)), dim=1)


def _movement(grey: Tensor, strength: Tensor, angle: Tensor) -> Tensor:
    """Direction histogram, speed, moving share, difference, signed change and cut score: [V, DIRECTIONS + 5].

    Of greys [V + 1, S, S], the first of which is the picture before, and of the gradients [V, S, S] of the others.
    """
    change = grey[1:] - grey[:-1]
    size, edge = change.abs(), _above(strength, _EDGE)
    speed = (size / strength.clamp(min=_EDGE)).mul_(edge)  # pixels a frame along the gradient
    against = _above(change, 0.0).mul_(torch.pi).add_(angle)  # what gets brighter was brighter where it came from
    directions = _histogram(against, speed, DIRECTIONS, 2 * torch.pi)
    figures = (
        speed.sum((1, 2)) / edge.sum((1, 2)).clamp(min=1),
        _above(size, _SLOW).mean((1, 2)),
        size.mean((1, 2)),
        change.mean((1, 2)),
        torch.diff(_levels(grey), dim=0).abs().sum(1),
    )
    return torch.cat((directions, torch.stack(figures, dim=1)), dim=1)


def _levels(grey: Tensor) -> Tensor:
    """Share of a picture's pixels [V, LEVELS] that are so bright. Greys are [V, S, S], from 0 to 1."""
    level = (grey * LEVELS).long()
    counts = torch.zeros(len(grey), LEVELS + 1, grey.shape[2])  # one a column: pixels side by side are often equal
    counts = counts.scatter_add_(1, level, torch.ones(()).expand_as(level)).sum(2)
    counts[:, LEVELS - 1] += counts[:, LEVELS]  # white
    return counts[:, :LEVELS] / grey[0].numel()
