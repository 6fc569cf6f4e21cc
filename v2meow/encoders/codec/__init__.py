"""Neural codecs: audio ↔ codes of K residual codebooks, by what a recipe names. The only home of `encodec`.

`lapped-encodec` is a small one that is fitted here and needs no download; `encodec` is EnCodec as published
(arXiv 2210.13438), at 24 or 48 kHz. Both know nothing of what is made of the codes.

Legend: B batch, T samples, F frames, K levels.
"""

from pathlib import Path
from typing import Protocol

from torch import Tensor

from v2meow import assets, weights
from v2meow.config import CodecConfig, EncodecConfig, LappedCodecConfig
from v2meow.encoders.audio import read_description
from v2meow.encoders.codec.lapped import LappedCodec

__all__ = ["Codec", "LappedCodec", "load_codec", "new_pretrained"]

_KINDS: dict[str, type[CodecConfig]] = {"lapped-encodec": LappedCodecConfig, "encodec": EncodecConfig}


class Codec(Protocol):
    """What all codecs do. `encode` and `decode` are exact inverses in length: F = T / hop frames."""

    @property
    def config(self) -> CodecConfig:
        """Rate, hop, levels, bins and sample rate."""
        ...

    @property
    def context(self) -> tuple[float, int]:
        """Frames before a part that its sound depends on (infinite: all of them), and frames after it.

        For parts that begin and end at whole seconds, or where the music does, as sound is streamed.
        """
        ...

    def encode(self, waveform: Tensor) -> Tensor:
        """[B, T] in -1 … 1 → codes int64 [B, K, F]. T must be a multiple of the hop."""
        ...

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, k, F] of the first k ≤ K levels → [B, T]."""
        ...

    def decode_part(self, codes: Tensor, first: int, end: int) -> Tensor:
        """What `decode` of codes [B, K, F] gives for frames `first` … `end` - 1; only those and `context` are read."""
        ...


def load_codec(folder: Path) -> Codec:
    """The codec of a model folder, in evaluation mode.

    Raises ModelError naming the file that is damaged or does not fit, AssetError when published weights are missing.
    """
    config, _ = read_description(folder, _KINDS)
    if isinstance(config, EncodecConfig):
        return new_pretrained(config)
    codec = LappedCodec(config)
    weights.load_into(codec, folder)
    codec.fold()
    return codec.eval()


def new_pretrained(config: EncodecConfig) -> Codec:
    """EnCodec with the published weights of the recipe's asset. AssetError or ModelError when they cannot be used."""
    from v2meow.encoders.codec.pretrained import load_published

    return load_published(config, assets.folder(config.asset))
