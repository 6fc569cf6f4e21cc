"""A small codec of the `encodec` package's own modules that is fitted here, in moments on a CPU.

Its first and last convolutions are a lapped cosine transform (MDCT: perfect reconstruction before any training)
instead of learned strides, its codebooks are fitted to the transformed catalogue, and SEANet residual blocks around
the quantizer start as the identity; training then refines what already is a codec. From scratch, the package's
SEANet needs tens of thousands of steps.

Legend: B batch, T samples, F frames, K levels.
"""

import math
from typing import Any

import torch
from encodec.modules.conv import SConv1d, SConvTranspose1d
from encodec.modules.seanet import SEANetResnetBlock
from encodec.quantization.vq import ResidualVectorQuantizer
from torch import Tensor, nn

from v2meow.config import LappedCodecConfig
from v2meow.encoders.codec import codebooks
from v2meow.encoders.codec.framewise import FramewiseDecoder

_SOFTEN = 1e-5  # keeps the slope of the companding finite at zero
_DECAY = 0.999  # of the codebooks' averages: with 0.99 a few batches undo what the whole catalogue gave


class LappedCodec(nn.Module):
    """See `Codec`."""

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
            dimension=hop,
            n_q=config.levels,
            bins=config.bins,
            decay=_DECAY,
            kmeans_init=False,
            threshold_ema_dead_code=0,
        )
        for layer in self.quantizer.vq.layers:  # averages are for training alone
            book = layer._codebook
            _not_kept(book, "embed_avg", book.embed_avg)
            _not_kept(book, "cluster_size", book.cluster_size)
        self._fix_transform(hop)
        self._framewise: FramewiseDecoder | None = None

    def fold(self) -> None:
        """Lay the decoder out for parts of a piece: they take half the time. The weights must not change any more."""
        self._framewise = FramewiseDecoder(self.quantizer, self.decoder, self.synthesis)

    def _fix_transform(self, hop: int) -> None:
        """MDCT basis with a sine window (Princen-Bradley): overlap-add of the inverse restores the signal."""
        sample, band = (torch.arange(length, dtype=torch.float64) + 0.5 for length in (2 * hop, hop))
        basis = torch.cos(math.pi / hop * band[:, None] * (sample + hop / 2)) * torch.sin(math.pi * sample / (2 * hop))
        analysis, synthesis = self.analysis.conv.conv, self.synthesis.convtr.convtr
        for module in (analysis, synthesis):
            _not_kept(module, "weight", (basis[:, None] * math.sqrt(2 / hop)).float())
        _not_kept(synthesis, "bias", torch.zeros(1))

    def spectrum(self, waveform: Tensor) -> Tensor:
        """[B, T] → companded transform coefficients [B, hop, F]. T must be a multiple of the hop."""
        assert waveform.shape[1] % self.config.hop == 0, (waveform.shape, self.config.hop)
        coefficients = self.analysis(waveform[:, None])
        power = self.config.companding
        return coefficients.sign() * ((coefficients.abs() + _SOFTEN) ** power - _SOFTEN**power)

    def waveform(self, spectrum: Tensor) -> Tensor:
        """Inverse of `spectrum`: [B, hop, F] → [B, T]."""
        return self.synthesis(self._expanded(spectrum))[:, 0]

    def _expanded(self, spectrum: Tensor) -> Tensor:
        """Transform coefficients of companded ones, of any shape."""
        power = self.config.companding
        return spectrum.sign() * ((spectrum.abs() + _SOFTEN**power) ** (1 / power) - _SOFTEN)

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One pass in training: (spectrum, its reconstruction, waveform's reconstruction, commitment loss)."""
        spectrum = self.spectrum(waveform)
        quantized = self.quantizer(self.encoder(spectrum), self.config.rate)
        decoded = self.decoder(quantized.quantized)
        return spectrum, decoded, self.waveform(decoded), quantized.penalty

    @torch.no_grad()
    def encode(self, waveform: Tensor) -> Tensor:
        """[B, T] in -1 … 1 → codes int64 [B, K, F], by the recipe's beam search."""
        frames = self.encoder(self.spectrum(waveform)).transpose(1, 2)
        codes = codebooks.search(frames.flatten(0, 1), self._books(), self.config.beam)
        return codes.unflatten(0, frames.shape[:2]).transpose(1, 2)

    @torch.no_grad()
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
        waveform = self._decode_few(codes[..., start : end + after])
        return waveform[:, (first - start) * self.config.hop : (end - start) * self.config.hop]

    def _decode_few(self, codes: Tensor) -> Tensor:
        """`decode`, the faster way where the decoder is laid out for it."""
        if self._framewise is None:
            return self.decode(codes)
        with torch.no_grad():
            return self._framewise.overlapped(self._expanded(self._framewise.frames(codes)))

    @torch.no_grad()
    def initialise_codebooks(self, frames: Tensor, generator: torch.Generator) -> None:
        """Codebooks fitted to frames [N, hop] of `spectrum`, and the package's moving averages as if those led there.

        The averages weigh as much as those of training batches would.
        """
        books = codebooks.fit_refined(frames, self.config.levels, self.config.bins, generator)
        share = self.config.batch * self.config.segment_seconds * self.config.rate / len(frames)
        codes = codebooks.search(frames, books, 1)
        for layer, entries, used in zip(self.quantizer.vq.layers, books, codes.T, strict=True):
            book, counts = layer._codebook, torch.bincount(used, minlength=self.config.bins).float()
            book.embed.copy_(entries)
            book.cluster_size.copy_(counts * share)
            book.embed_avg.copy_(entries * (counts * share)[:, None])

    def _books(self) -> Tensor:
        """The codebooks [K, bins, hop]."""
        return torch.stack([layer.codebook for layer in self.quantizer.vq.layers])


def _not_kept(module: nn.Module, name: str, value: Tensor) -> None:
    """Make a tensor of a module one that is neither trained nor saved: half of the weights follow from the recipe."""
    delattr(module, name)
    module.register_buffer(name, value, persistent=False)


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
