"""A small music-text model: two towers into one space, trained contrastively on (music, caption) pairs.

Words are hashed into buckets, so there is no vocabulary to keep.
Legend: B batch, T samples, W windows, D numbers that describe a window.
"""

import re
import zlib

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from v2meow.config import TwoTowerConfig
from v2meow.encoders.audio import windows
from v2meow.encoders.joint.descriptors import WIDTH, describe_music

WINDOW_SECONDS = 4.0  # a few beats; the vector of longer music is the mean over windows, as in the paper
_HIDDEN = 128
_DROPOUT = 0.3  # a small catalogue is soon learnt by heart


class TwoTower(nn.Module):
    """Music and text → unit vectors [B, width]."""

    mean: Tensor
    spread: Tensor

    def __init__(self, config: TwoTowerConfig, sample_rate: int) -> None:
        super().__init__()
        self.config, self.sample_rate = config, sample_rate
        self.words = nn.EmbeddingBag(config.text_buckets, _HIDDEN, mode="mean")
        self.text = nn.Sequential(nn.GELU(), nn.Linear(_HIDDEN, config.width))
        self.register_buffer("mean", torch.zeros(WIDTH))
        self.register_buffer("spread", torch.ones(WIDTH))
        self.audio = nn.Sequential(
            nn.Dropout(_DROPOUT),
            nn.Linear(WIDTH, _HIDDEN),
            nn.GELU(),
            nn.Dropout(_DROPOUT),
            nn.Linear(_HIDDEN, config.width),
        )
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return self.config.width

    def describe(self, waveform: Tensor) -> Tensor:
        """[B, T] → [B, W, D]: what the audio tower sees of each window."""
        parts = windows(waveform, round(WINDOW_SECONDS * self.sample_rate))
        return describe_music(parts.flatten(0, 1), self.sample_rate).unflatten(0, parts.shape[:2])

    def standardise(self, descriptors: Tensor) -> None:
        """Take mean and spread from the descriptors [N, D] of the training windows."""
        self.mean.copy_(descriptors.mean(0))
        self.spread.copy_(descriptors.std(0).clamp(min=1e-3))

    def embed_windows(self, descriptors: Tensor) -> Tensor:
        """[…, D] → unit vectors […, width]."""
        return F.normalize(self.audio((descriptors - self.mean) / self.spread), dim=-1)

    def embed_audio(self, waveform: Tensor) -> Tensor:
        """[B, T] → unit vectors [B, width]: the mean over windows of WINDOW_SECONDS."""
        return F.normalize(self.embed_windows(self.describe(waveform)).mean(1), dim=-1)

    def embed_text(self, texts: list[str]) -> Tensor:
        """B texts → unit vectors [B, width]."""
        buckets = [_buckets(text, self.config.text_buckets) for text in texts]
        offsets = torch.tensor([0, *(len(b) for b in buckets[:-1])]).cumsum(0)
        return F.normalize(
            self.text(self.words(torch.tensor([bucket for text in buckets for bucket in text]), offsets)), dim=-1
        )

    def loss(self, descriptors: Tensor, texts: list[str]) -> Tensor:
        """Symmetric contrastive loss (CLIP, arXiv 2103.00020) of B pairs; equal captions count as matches."""
        similarity = self.embed_windows(descriptors) @ self.embed_text(texts).T * self.log_scale.exp()
        same = torch.tensor([[a == b for b in texts] for a in texts], dtype=torch.float32)
        goal = same / same.sum(1, keepdim=True)
        return (F.cross_entropy(similarity, goal) + F.cross_entropy(similarity.T, goal)) / 2


def _buckets(text: str, count: int) -> list[int]:
    """Hash buckets of the words of a text; bucket 0 alone for a text without words."""
    return [1 + zlib.crc32(word.encode()) % (count - 1) for word in re.findall(r"\w+", text.lower())] or [0]
