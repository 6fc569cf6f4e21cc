"""A small music-text model: two towers into one space, trained contrastively on (audio, caption) pairs.

It stands where the paper has MuLan: while the semantic stage is trained it sees the audio's vector,
at inference the prompt's. Words are hashed into buckets, so there is no vocabulary to keep.
"""

import re
import zlib
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from v2meow import weights
from v2meow.config import TwoTowerConfig
from v2meow.encoders.mel import log_mel

MELS = 64
WINDOW_SECONDS = 2.0  # the vector of longer audio is the mean over windows, as in the paper
_HIDDEN = 128


class TwoTower(nn.Module):
    """Audio and text → unit vectors [B, width]."""

    def __init__(self, config: TwoTowerConfig, sample_rate: int) -> None:
        super().__init__()
        self.config, self.sample_rate = config, sample_rate
        self.words = nn.EmbeddingBag(config.text_buckets, _HIDDEN, mode="mean")
        self.text = nn.Sequential(nn.GELU(), nn.Linear(_HIDDEN, config.width))
        self.audio = nn.Sequential(
            nn.LayerNorm(4 * MELS), nn.Linear(4 * MELS, _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, config.width)
        )
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The fitted model from its folder, in evaluation mode."""
        saved = weights.read_config(folder)
        model = cls(TwoTowerConfig(**saved["config"]), saved["sample_rate"])
        weights.load_into(model, folder)
        return model.eval()

    def audio_features(self, waveform: Tensor) -> Tensor:
        """[B, T] → [B, 4 * MELS]: mean and spread of the log-mel spectrogram and of its change, over time."""
        hop = self.sample_rate // 50
        mel = log_mel(waveform, sample_rate=self.sample_rate, window=4 * hop, hop=hop, mels=MELS)
        change = torch.diff(mel, dim=1)
        return torch.cat((mel.mean(1), mel.std(1), change.clamp(min=0).mean(1), change.std(1)), dim=1)

    def embed_features(self, features: Tensor) -> Tensor:
        return F.normalize(self.audio(features), dim=-1)

    def embed_audio(self, waveform: Tensor) -> Tensor:
        """[B, T] → [B, width]: mean over windows of WINDOW_SECONDS, scaled back to unit length."""
        window = min(waveform.shape[1], round(WINDOW_SECONDS * self.sample_rate))
        windows = waveform.unfold(1, window, window)  # [B, N, window]
        vectors = self.embed_features(self.audio_features(windows.flatten(0, 1)))
        return F.normalize(vectors.unflatten(0, windows.shape[:2]).mean(1), dim=-1)

    def embed_text(self, texts: list[str]) -> Tensor:
        """Texts → [B, width]."""
        buckets = [_buckets(text, self.config.text_buckets) for text in texts]
        offsets = torch.tensor([0, *(len(b) for b in buckets[:-1])]).cumsum(0)
        return F.normalize(
            self.text(self.words(torch.tensor([bucket for text in buckets for bucket in text]), offsets)), dim=-1
        )

    def loss(self, features: Tensor, texts: list[str]) -> Tensor:
        """Symmetric contrastive loss (CLIP, arXiv 2103.00020) of B pairs; equal captions count as matches."""
        similarity = self.embed_features(features) @ self.embed_text(texts).T * self.log_scale.exp()
        same = torch.tensor([[a == b for b in texts] for a in texts], dtype=torch.float32)
        goal = same / same.sum(1, keepdim=True)
        return (F.cross_entropy(similarity, goal) + F.cross_entropy(similarity.T, goal)) / 2


def _buckets(text: str, count: int) -> list[int]:
    """Hash buckets of the words of a text; bucket 0 alone for a text without words."""
    return [1 + zlib.crc32(word.encode()) % (count - 1) for word in re.findall(r"\w+", text.lower())] or [0]
