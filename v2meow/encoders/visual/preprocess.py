"""Pictures as a pretrained model wants them, in torch on uint8: several times faster than one PIL image at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms


@dataclass(frozen=True)
class Preprocess:
    """How a model was shown its pictures: their (height, width), how they were fitted in, and by what normalised.

    `fit`: "shortest" scales to the shorter side and crops the centre, "longest" scales to the longer side and fills
    up with `fill` (0…255), "squash" gives up the aspect.
    """

    size: tuple[int, int]
    mean: Sequence[float]
    std: Sequence[float]
    interpolation: str = "bicubic"
    fit: str = "shortest"
    fill: int = 0

    def pictures(self, frames: Tensor) -> Tensor:
        """RGB uint8 [B, 3, height, width] of RGB frames uint8 [B, 3, H, W]."""
        assert frames.dtype == torch.uint8 and frames.shape[1] == 3, (frames.dtype, frames.shape)
        scaled = transforms.resize(
            frames, self._scaled(*frames.shape[2:]), InterpolationMode(self.interpolation), antialias=True
        )
        height, width = self.size
        left, top = max(0, width - scaled.shape[3]), max(0, height - scaled.shape[2])
        if left or top:
            sides = [left // 2, top // 2, left - left // 2, top - top // 2]
            scaled = transforms.pad(scaled, sides, fill=self.fill)
        return transforms.center_crop(scaled, [height, width])

    def __call__(self, frames: Tensor) -> Tensor:
        """Normalised float32 [B, 3, height, width] of RGB frames uint8 [B, 3, H, W]."""
        levels = self.pictures(frames).float() / 255
        return transforms.normalize(levels, list(self.mean), list(self.std))

    def _scaled(self, height: int, width: int) -> list[int]:
        """(height, width) before cropping or filling up."""
        ratios = height / self.size[0], width / self.size[1]
        if self.fit == "squash":
            return list(self.size)
        if self.fit == "longest":
            return [max(1, round(side / max(ratios))) for side in (height, width)]
        if self.size[0] != self.size[1]:
            return [round(side / min(ratios)) for side in (height, width)]
        side, shorter = self.size[0], min(height, width)  # torchvision cuts the fraction off, and so do we
        return [side * height // shorter, side * width // shorter]
