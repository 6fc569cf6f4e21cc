"""Semantic ids: k-means over a log-mel spectrogram, one id every 40 ms at 25 Hz.

The paper quantizes w2v-BERT features; a mel front end needs no download and keeps what the coarse
stage needs of short synthetic pieces: pitch, timbre, onsets and level.
"""

from pathlib import Path
from typing import Self

import torch
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor, nn

from v2meow import weights
from v2meow.config import MelIdsConfig, RecipeError
from v2meow.encoders.mel import log_mel


class SemanticIds(nn.Module):
    """Audio → ids by the nearest of `clusters` centroids. Weights are fitted once and frozen."""

    centroids: Tensor

    def __init__(self, config: MelIdsConfig, sample_rate: int) -> None:
        super().__init__()
        self.config, self.sample_rate = config, sample_rate
        self.register_buffer("centroids", torch.zeros(config.clusters, config.mels))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The fitted model from its folder, in evaluation mode."""
        saved = weights.read_config(folder)
        model = cls(MelIdsConfig(**saved["config"]), saved["sample_rate"])
        weights.load_into(model, folder)
        return model.eval()

    @property
    def hop(self) -> int:
        """Samples an id."""
        return self.sample_rate // self.config.rate

    def features(self, waveform: Tensor) -> Tensor:
        """[B, T] → [B, T / hop, mels]: what is clustered. The window spans 1.6 ids."""
        window = int(1.6 * self.hop) // 2 * 2
        return log_mel(waveform, sample_rate=self.sample_rate, window=window, hop=self.hop, mels=self.config.mels)

    def fit(self, frames: Tensor, seed: int) -> float:
        """Fit the centroids to frames [N, mels]; returns the mean squared distance. RecipeError when N is too small."""
        if len(frames) < self.config.clusters:
            raise RecipeError(
                f"semantic_ids.clusters: {self.config.clusters} clusters need as many audio frames, "
                f"the catalogue has {len(frames)}: add videos or lower the number"
            )
        means = MiniBatchKMeans(self.config.clusters, random_state=seed, batch_size=4096, max_iter=30)
        means.fit(frames.numpy())
        self.centroids.copy_(torch.from_numpy(means.cluster_centers_))
        return float(means.inertia_) / len(frames)

    @torch.inference_mode()
    def encode(self, waveform: Tensor) -> Tensor:
        """[B, T] → ids int64 [B, T / hop]."""
        return torch.cdist(self.features(waveform), self.centroids[None]).argmin(-1)
