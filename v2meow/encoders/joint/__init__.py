"""The space of music and text, where the paper (arXiv 2305.06594) has MuLan.

While the semantic stage is trained it sees the music's vector, at inference the prompt's.
"""

from pathlib import Path
from typing import Protocol

from torch import Tensor

from v2meow import assets, weights
from v2meow.config import ClapConfig, JointConfig, TwoTowerConfig
from v2meow.encoders.audio import best_device, read_description
from v2meow.encoders.joint.two_tower import TwoTower

__all__ = ["JointEncoder", "TwoTower", "load_joint", "new_joint"]

_KINDS: dict[str, type[JointConfig]] = {"two-tower": TwoTowerConfig, "clap": ClapConfig}


class JointEncoder(Protocol):
    """Music and text → unit vectors [B, width]: near where they belong together."""

    @property
    def width(self) -> int: ...

    def embed_audio(self, waveform: Tensor) -> Tensor:
        """[B, T] → [B, width], on the waveform's device."""
        ...

    def embed_text(self, texts: list[str]) -> Tensor:
        """B texts → [B, width]."""
        ...


def new_joint(config: JointConfig, sample_rate: int) -> JointEncoder:
    """The encoder for waveforms of `sample_rate` Hz; a pretrained one goes on the GPU if there is one.

    AssetError when its weights are not in the store, ModelError naming the file when they cannot be used.
    """
    if isinstance(config, TwoTowerConfig):
        return TwoTower(config, sample_rate)
    from v2meow.encoders.joint.clap import Clap  # here, because transformers takes seconds

    return Clap(config, sample_rate, assets.folder(config.asset), best_device())


def load_joint(folder: Path) -> JointEncoder:
    """The fitted encoder of a model folder, in evaluation mode. ModelError naming the file when it cannot be used."""
    encoder = new_joint(*read_description(folder, _KINDS))
    if isinstance(encoder, TwoTower):
        weights.load_into(encoder, folder)
        encoder.eval()
    return encoder
