"""EnCodec's architecture at the rate and bitrate of ours, and training it: what there is to compare with.

The layers and widths are the `encodec` package's; only strides and codebooks differ, so that frames are ours.
"""

import time

import torch
from encodec.modules.seanet import SEANetDecoder, SEANetEncoder
from encodec.quantization.vq import ResidualVectorQuantizer
from torch import Tensor, nn

from v2meow.config import LappedCodecConfig
from v2meow.encoders.codec.measures import mel_distance
from v2meow.train.optim import make_optimizer

_RATIOS = {320: [8, 5, 4, 2], 480: [8, 5, 4, 3], 640: [8, 5, 4, 4]}  # strides by hop
_LEARNING_RATE = 3e-4  # EnCodec's (arXiv 2210.13438, section 4.3)


class PeerCodec(nn.Module):
    """EnCodec's encoder, quantizer and decoder, with the frames, levels and entries of `config`."""

    def __init__(self, config: LappedCodecConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = SEANetEncoder(ratios=_RATIOS[config.hop], causal=True)
        self.decoder = SEANetDecoder(ratios=_RATIOS[config.hop], causal=True)
        self.quantizer = ResidualVectorQuantizer(n_q=config.levels, bins=config.bins, dimension=128)

    @torch.no_grad()
    def restored(self, waveform: Tensor) -> Tensor:
        """[B, T] encoded and decoded."""
        codes = self.quantizer.encode(self.encoder(waveform[:, None]), self.config.rate)
        return self.decoder(self.quantizer.decode(codes))[:, 0]


def train(codec: PeerCodec, waveforms: Tensor, seed: int, seconds: float) -> int:
    """Train on random pieces of waveforms [N, T], for `seconds` of the processor as ours; returns the steps made.

    Losses are ours as far as it has them: log-mel, the waveform's own distance, and commitment.
    """
    config, generator = codec.config, torch.Generator().manual_seed(seed)
    length = round(config.segment_seconds * config.rate) * config.hop
    optimizer = make_optimizer(codec, _LEARNING_RATE, 1e-4)
    codec.train()
    end, steps = time.process_time() + seconds, 0
    while time.process_time() < end:
        rows = torch.randint(0, len(waveforms), (config.batch,), generator=generator)
        starts = torch.randint(0, waveforms.shape[1] - length + 1, (config.batch,), generator=generator)
        pieces = torch.stack([waveforms[row, at : at + length] for row, at in zip(rows, starts, strict=True)])
        quantized = codec.quantizer(codec.encoder(pieces[:, None]), config.rate)
        restored = codec.decoder(quantized.quantized)[:, 0]
        loss = mel_distance(restored, pieces, config.sample_rate) + 0.1 * (restored - pieces).abs().mean()
        optimizer.zero_grad(set_to_none=True)
        (loss + quantized.penalty).backward()
        torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimizer.step()
        steps += 1
    codec.eval()
    return steps
