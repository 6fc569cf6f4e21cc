"""The neural codec: audio ↔ codes of K residual codebooks, from the `encodec` package's own modules.

A small EnCodec that trains in a minute on a CPU. Its first and last convolutions are a lapped cosine
transform (MDCT: perfect reconstruction before any training) instead of learned strides, its codebooks
start as residual k-means of the transformed catalogue, and SEANet residual blocks around the quantizer
start as the identity; training then refines what already is a codec. From scratch, the package's
SEANet needs tens of thousands of steps. The only home of `encodec`.

Legend: B batch, T samples, F frames, K levels.
"""

import math
from pathlib import Path
from typing import Any, Self

import torch
from encodec.modules.conv import SConv1d, SConvTranspose1d
from encodec.modules.seanet import SEANetResnetBlock
from encodec.quantization.vq import ResidualVectorQuantizer
from torch import Tensor, nn

from v2meow import weights
from v2meow.config import LappedCodecConfig

_KMEANS_ROUNDS = 8
_SOFTEN = 1e-5  # keeps the slope of the companding finite at zero


class Codec(nn.Module):
    """`encode` and `decode` are exact inverses in length: F = T / hop frames."""

    analysis: Any  # the package has no types
    synthesis: Any
    quantizer: Any

    def __init__(self, config: LappedCodecConfig) -> None:
        super().__init__()
        self.config = config
        hop = config.hop
        self.analysis = SConv1d(1, hop, 2 * hop, stride=hop, causal=True, bias=False, pad_mode="constant")
        self.synthesis = SConvTranspose1d(hop, 1, 2 * hop, stride=hop, causal=True, trim_right_ratio=0.0)
        self.encoder = _identity_blocks(hop, config.blocks)
        self.decoder = _identity_blocks(hop, config.blocks)
        self.quantizer = ResidualVectorQuantizer(
            dimension=hop, n_q=config.levels, bins=config.bins, decay=0.99, kmeans_init=False, threshold_ema_dead_code=0
        )
        self._fix_transform(hop)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """A fitted codec from its model folder, in evaluation mode."""
        codec = cls(LappedCodecConfig(**weights.read_config(folder)))
        weights.load_into(codec, folder)
        return codec.eval()

    def _fix_transform(self, hop: int) -> None:
        """MDCT basis with a sine window (Princen-Bradley): overlap-add of the inverse restores the signal."""
        sample, band = (torch.arange(length, dtype=torch.float64) + 0.5 for length in (2 * hop, hop))
        basis = torch.cos(math.pi / hop * band[:, None] * (sample + hop / 2)) * torch.sin(math.pi * sample / (2 * hop))
        with torch.no_grad():
            self.analysis.conv.conv.weight.copy_(basis[:, None] * math.sqrt(2 / hop))
            self.synthesis.convtr.convtr.weight.copy_(basis[:, None] * math.sqrt(2 / hop))
            self.synthesis.convtr.convtr.bias.zero_()
        for module in (self.analysis, self.synthesis):
            module.requires_grad_(False)

    def spectrum(self, waveform: Tensor) -> Tensor:
        """[B, T] → companded transform coefficients [B, hop, F]. T must be a multiple of the hop."""
        assert waveform.shape[1] % self.config.hop == 0, (waveform.shape, self.config.hop)
        coefficients = self.analysis(waveform[:, None])
        power = self.config.companding
        return coefficients.sign() * ((coefficients.abs() + _SOFTEN) ** power - _SOFTEN**power)

    def waveform(self, spectrum: Tensor) -> Tensor:
        """Inverse of `spectrum`: [B, hop, F] → [B, T]."""
        power = self.config.companding
        coefficients = spectrum.sign() * ((spectrum.abs() + _SOFTEN**power) ** (1 / power) - _SOFTEN)
        return self.synthesis(coefficients)[:, 0]

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One pass in training: (spectrum, its reconstruction, waveform's reconstruction, commitment loss)."""
        spectrum = self.spectrum(waveform)
        quantized = self.quantizer(self.encoder(spectrum), self.config.rate)
        decoded = self.decoder(quantized.quantized)
        return spectrum, decoded, self.waveform(decoded), quantized.penalty

    @torch.inference_mode()
    def encode(self, waveform: Tensor) -> Tensor:
        """[B, T] in -1 … 1 → codes int64 [B, K, F]."""
        return self.quantizer.encode(self.encoder(self.spectrum(waveform)), self.config.rate).transpose(0, 1)

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, k, F] of the first k ≤ K levels → [B, T]."""
        return self.waveform(self.decoder(self.quantizer.decode(codes.transpose(0, 1))))

    @property
    def context(self) -> tuple[int, int]:
        """Frames before and after a frame that its sound depends on, for the blocks' dilations and the transform."""
        return sum(2 * 2**i for i in range(self.config.blocks)), 1

    def decode_part(self, codes: Tensor, first: int, end: int) -> Tensor:
        """What `decode` of codes [B, K, F] gives for frames `first` … `end` - 1, from those and their context alone."""
        before, after = self.context
        start = max(0, first - before)
        waveform = self.decode(codes[..., start : end + after])
        return waveform[:, (first - start) * self.config.hop : (end - start) * self.config.hop]

    @torch.no_grad()
    def initialise_codebooks(self, frames: Tensor, generator: torch.Generator) -> None:
        """Residual k-means over frames [N, hop] of `spectrum`: each codebook fits what the ones before leave over.

        Sets the package's moving averages too, as if one training batch had been seen.
        """
        residual = frames
        for layer in self.quantizer.vq.layers:
            centroids, nearest = _kmeans(residual, self.config.bins, generator)
            book, counts = layer._codebook, torch.bincount(nearest, minlength=self.config.bins).float()
            share = self.config.batch * self.config.segment_seconds * self.config.rate / len(frames)
            book.embed.copy_(centroids)
            book.cluster_size.copy_(counts * share)
            book.embed_avg.copy_(centroids * (counts * share)[:, None])
            residual = residual - centroids[nearest]


def _identity_blocks(width: int, count: int) -> nn.Sequential:
    """Causal SEANet residual blocks whose last convolution starts at zero."""
    common = {"causal": True, "norm": "none", "pad_mode": "constant", "true_skip": True}
    blocks = nn.Sequential(
        *(SEANetResnetBlock(width, kernel_sizes=[3, 1], dilations=[2**i, 1], **common) for i in range(count))
    )
    for last in (block.block[-1] for block in blocks):  # type: ignore[union-attr]
        for parameter in last.parameters():  # type: ignore[union-attr]
            nn.init.zeros_(parameter)
    return blocks


def _kmeans(points: Tensor, clusters: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm: centroids [clusters, D] and the nearest of each point [N]. Empty ones restart at a point."""
    pick = torch.randint(0, len(points), (clusters,), generator=generator)
    centroids = points[pick].clone()
    for _ in range(_KMEANS_ROUNDS):
        nearest = _nearest(points, centroids)
        counts = torch.bincount(nearest, minlength=clusters)[:, None]
        sums = torch.zeros_like(centroids).index_add_(0, nearest, points)
        restart = points[torch.randint(0, len(points), (clusters,), generator=generator)]
        centroids = torch.where(counts > 0, sums / counts.clamp(min=1), restart)
    return centroids, _nearest(points, centroids)


def _nearest(points: Tensor, centroids: Tensor) -> Tensor:
    return (centroids.square().sum(1) - 2 * points @ centroids.T).argmin(1)
