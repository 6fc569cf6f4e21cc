"""EnCodec at 24 kHz: mono and causal, with recurrent layers that remember all that came before.

Legend: B batch, T samples, F frames, K levels, C channels.
"""

from typing import Any

import torch
from encodec.modules.seanet import SEANetDecoder, SEANetEncoder
from encodec.quantization.vq import ResidualVectorQuantizer
from torch import Tensor, nn

from v2meow.config import EncodecConfig
from v2meow.encoders.codec.carried import Carried
from v2meow.encoders.codec.folded import FoldedUpsampling, fold

_State = tuple[tuple[Tensor, Tensor], Tensor]  # of the recurrent layers, and the last frames that they gave


class CausalEncodec(nn.Module):
    """See `Codec`. Parts are decoded exactly: the recurrent layers go on from where the part before left them.

    With `bfloat16` the decoder works in it (the encoder does not: codes are stored, and must not depend on it).
    """

    entry: Any  # the package has no types
    recurrent: Any
    quantizer: Any

    def __init__(
        self,
        config: EncodecConfig,
        encoder: SEANetEncoder,
        quantizer: ResidualVectorQuantizer,
        decoder: SEANetDecoder,
    ) -> None:
        super().__init__()
        fold(encoder)
        fold(decoder)
        self.config, self.encoder, self.quantizer = config, encoder, quantizer
        self.entry, self.recurrent = decoder.model[0], decoder.model[1].lstm  # type: ignore[union-attr]
        self.upsampling = FoldedUpsampling(decoder)
        self.dtype = torch.bfloat16 if config.bfloat16 else torch.float32
        for part in (self.entry, self.recurrent, self.upsampling):
            part.to(self.dtype)
        self._carried: Carried[_State] = Carried()

    @property
    def context(self) -> tuple[float, int]:
        """Everything before, nothing after: the recurrent layers forget nothing for certain.

        The very first frames are mirrored at the beginning: a part that ends within the first six needs the seventh.
        """
        return float("inf"), 0

    @torch.inference_mode()
    def encode(self, waveform: Tensor) -> Tensor:
        """[B, T] in -1 … 1 → codes int64 [B, K, F]."""
        assert waveform.shape[1] % self.config.hop == 0, (waveform.shape, self.config.hop)
        vectors = self.encoder(waveform[:, None].to(self._device))
        return self.quantizer.vq.encode(vectors, n_q=self.config.levels).transpose(0, 1).to(waveform.device)

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, k, F] of the first k ≤ K levels → [B, T]."""
        features, _ = self._recur(self._enter(codes, 0, codes.shape[2]), None)
        return self.upsampling(features).float().to(codes.device)

    @torch.inference_mode()
    def decode_part(self, codes: Tensor, first: int, end: int) -> Tensor:
        """What `decode` of codes [B, K, F] gives for frames `first` … `end` - 1. Costs least part after part."""
        carried = self._carried.after(codes[..., :first])
        start, (state, last) = (first, carried) if carried else (0, (None, None))
        features, state = self._recur(self._enter(codes, start, end), state)
        if last is not None:
            features = torch.cat((last, features), dim=2)
        before = self.upsampling.before
        self._carried.keep(codes[..., :end], (state, features[..., -before:].clone()))
        sound = self.upsampling(features[..., -(end - first + before) :])
        return sound[:, sound.shape[1] - (end - first) * self.config.hop :].float().to(codes.device)

    def _enter(self, codes: Tensor, start: int, end: int) -> Tensor:
        """[B, C, end - start] of the first convolution."""
        reach = self.entry.conv.conv.kernel_size[0] - 1
        begin = max(0, start - reach)
        needed = codes[..., begin : max(end, reach + 1)].to(self._device)
        vectors = self.quantizer.decode(needed.transpose(0, 1)).to(self.dtype)
        return self.entry(vectors)[..., start - begin : end - begin]

    def _recur(self, entered: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The recurrent layers with the package's skip connection, going on from `state`."""
        steps = entered.permute(2, 0, 1)
        made, state = self.recurrent(steps, state)
        return (made + steps).permute(1, 2, 0), state

    @property
    def _device(self) -> torch.device:
        return self.upsampling.layers[1].weight.device  # type: ignore[return-value]
