"""EnCodec at 48 kHz: stereo, in seconds of which each is normalized on its own.

As published, segments of one second overlap by 1 % and each has a scale beside its codes. Here:

- Segments are encoded side by side, so that there are exactly T / hop frames and every frame belongs to one. For a
  seam without a click the decoder reads on for two frames (13 ms, the package's overlap is 10) into the next segment,
  and fades over.
- The scale is left out: it is no token, and no stage could predict it. It cannot be kept by leaving the normalization
  out either, because the encoder's group norms undo the level of whatever they are given. Every segment therefore
  sounds at one level; what changes in less than a second stays. Where the level of the music matters, take 24 kHz.

Legend: B batch, T samples, F frames, K levels.
"""

from typing import Any

import torch
from encodec.modules.seanet import SEANetDecoder, SEANetEncoder
from encodec.quantization.vq import ResidualVectorQuantizer
from torch import Tensor, nn

from v2meow.config import EncodecConfig
from v2meow.encoders.codec.carried import Carried

_FADE = 2  # frames
_LEVEL = 0.1  # RMS that normalized sound is given: -20 dBFS leaves room for the peaks of loud music


class SegmentedEncodec(nn.Module):
    """See `Codec`. Mono goes in as two equal channels, and comes out as their mean."""

    quantizer: Any  # the package has no types

    def __init__(
        self,
        config: EncodecConfig,
        encoder: SEANetEncoder,
        quantizer: ResidualVectorQuantizer,
        decoder: SEANetDecoder,
    ) -> None:
        super().__init__()
        self.config, self.encoder, self.quantizer, self.decoder = config, encoder, quantizer, decoder
        self.decoder.to(self._dtype)
        self._carried: Carried[Tensor] = Carried()

    @property
    def context(self) -> tuple[float, int]:
        """The segment before, whose end fades into a part, and the frames after in which it fades out."""
        return self.config.rate, _FADE

    @torch.inference_mode()
    def encode(self, waveform: Tensor) -> Tensor:
        """[B, T] in -1 … 1 → codes int64 [B, K, F]."""
        assert waveform.shape[1] % self.config.hop == 0, (waveform.shape, self.config.hop)
        segments = waveform.to(self._device).split(self.config.sample_rate, dim=1)
        return torch.cat([self._encode(segment) for segment in segments], dim=2).to(waveform.device)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, k, F] of the first k ≤ K levels → [B, T]."""
        return self.decode_part(codes, 0, codes.shape[2])

    @torch.inference_mode()
    def decode_part(self, codes: Tensor, first: int, end: int) -> Tensor:
        """What `decode` of codes [B, K, F] gives for frames `first` … `end` - 1. Costs least in whole seconds."""
        rate, hop = self.config.rate, self.config.hop
        segment, sound = first // rate, []
        tail = self._tail(codes, segment - 1) if segment else None
        for number in range(segment, -(-end // rate)):
            made = self._decode(codes, number)
            sound.append(_faded(made[:, : rate * hop], tail))
            tail = made[:, rate * hop :]
        part = slice((first - segment * rate) * hop, (end - segment * rate) * hop)
        return torch.cat(sound, dim=1)[:, part].to(codes.device)

    def _encode(self, segment: Tensor) -> Tensor:
        scale = segment.square().mean(1, keepdim=True).sqrt() + 1e-8  # as the package does
        vectors = self.encoder((segment / scale)[:, None].expand(-1, 2, -1))
        return self.quantizer.vq.encode(vectors, n_q=self.config.levels).transpose(0, 1)

    def _decode(self, codes: Tensor, number: int) -> Tensor:
        """A segment's sound [B, samples], with what of it sounds into the next one."""
        own = self._of_segment(codes, number)
        vectors = self.quantizer.decode(own.to(self._device).transpose(0, 1))
        made = _LEVEL * self.decoder(vectors.to(self._dtype)).float().mean(1)
        self._carried.keep(own, made[:, self.config.sample_rate :])
        return made

    def _tail(self, codes: Tensor, number: int) -> Tensor:
        """What of a segment sounds into the next one."""
        carried = self._carried.after(self._of_segment(codes, number))
        return self._decode(codes, number)[:, self.config.sample_rate :] if carried is None else carried

    def _of_segment(self, codes: Tensor, number: int) -> Tensor:
        rate = self.config.rate
        return codes[..., number * rate : (number + 1) * rate + _FADE]

    @property
    def _dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.config.bfloat16 else torch.float32

    @property
    def _device(self) -> torch.device:
        return next(self.decoder.parameters()).device


def _faded(sound: Tensor, tail: Tensor | None) -> Tensor:
    """`sound` [B, n] that the sound before it fades into, over as many samples as both have."""
    if tail is None:
        return sound
    count = min(tail.shape[1], sound.shape[1])
    share = (torch.arange(count, device=sound.device) + 0.5) / count
    return torch.cat((tail[:, :count] * (1 - share) + sound[:, :count] * share, sound[:, count:]), dim=1)
