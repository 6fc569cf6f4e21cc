"""Ids of frames by the nearest of `clusters` centroids, fitted once and frozen."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from v2meow.config import SemanticIdsConfig
from v2meow.encoders.semantic.frames import Frames


class SemanticIds(nn.Module):
    """Audio → ids. Its weights are the centroids alone: what makes the frames is not a part of it.

    Legend: B batch, T samples, S ids, D width of a frame.
    """

    centroids: Tensor

    def __init__(self, config: SemanticIdsConfig, frames: Frames) -> None:
        super().__init__()
        self.config, self.frames = config, frames
        self.register_buffer("centroids", torch.zeros(config.clusters, frames.width))

    @property
    def sample_rate(self) -> int:
        """Hz of the waveforms."""
        return self.frames.sample_rate

    @property
    def hop(self) -> int:
        """Samples an id."""
        return self.sample_rate // self.config.rate

    @torch.inference_mode()
    def features(self, waveform: Tensor) -> Tensor:
        """[B, T] → [B, S, D], S = T // hop: what is clustered, on the device of the model that makes it."""
        return self.frames(waveform)

    def fit(self, batches: Iterable[Tensor], seed: int) -> dict[str, float]:
        """Fit the centroids to batches of frames [N, D]; returns figures of the fit, see `fit_kmeans`.

        RecipeError when there are fewer frames than clusters.
        """
        from v2meow.encoders.semantic.kmeans import fit_kmeans  # here: scikit-learn takes seconds, which music need not

        centroids, figures = fit_kmeans((batch.cpu().numpy() for batch in batches), self.config.clusters, seed)
        self.centroids.copy_(torch.from_numpy(centroids))
        return figures

    @torch.inference_mode()
    def encode(self, waveform: Tensor) -> Tensor:
        """[B, T] → ids int64 [B, S], S = T // hop, on the waveform's device."""
        features = self.features(waveform)
        return torch.cdist(features, self.centroids.to(features)[None]).argmin(-1).to(waveform.device)
