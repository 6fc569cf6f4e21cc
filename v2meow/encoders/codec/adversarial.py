"""EnCodec's discriminator and its losses (arXiv 2210.13438, section 3.4), from the `encodec` package.

Legend: B batch, T samples.
"""

from typing import Any

import torch
from encodec.msstftd import MultiScaleSTFTDiscriminator
from torch import Tensor, nn


class Discriminator(nn.Module):
    """Tells music from its reconstruction by complex spectrograms of three windows; the longest has 2048 samples."""

    judges: Any  # the package has no types

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.judges = MultiScaleSTFTDiscriminator(filters)

    def loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Hinge loss of telling [B, T] apart; no gradient reaches `fake`."""
        (taken, _), (refused, _) = self.judges(real[:, None]), self.judges(fake.detach()[:, None])
        parts = [(1 - a).relu().mean() + (1 + b).relu().mean() for a, b in zip(taken, refused, strict=True)]
        return torch.stack(parts).mean()

    def generator_losses(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """(hinge loss of not deceiving, relative distance of inner features) of a reconstruction [B, T]."""
        with torch.no_grad():
            _, wanted = self.judges(real[:, None])
        verdicts, found = self.judges(fake[:, None])
        adversarial = torch.stack([(1 - verdict).relu().mean() for verdict in verdicts]).mean()
        distances = [
            (a - b).abs().mean() / a.abs().mean()
            for real_maps, fake_maps in zip(wanted, found, strict=True)
            for a, b in zip(real_maps, fake_maps, strict=True)
        ]
        return adversarial, torch.stack(distances).mean()
