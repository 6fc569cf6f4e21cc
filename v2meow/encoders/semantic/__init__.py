"""Semantic ids: k-means over frames of music, one id every 1 / rate seconds, by what a recipe names.

`mel` needs no download and keeps what the coarse stage needs of short synthetic pieces: pitch, timbre, onsets and
level. The others cluster hidden states of a pretrained model, as the paper does with w2v-BERT (arXiv 2305.06594).
"""

from pathlib import Path

from v2meow import assets, weights
from v2meow.config import MelIdsConfig, PretrainedIdsConfig, SemanticIdsConfig
from v2meow.encoders.audio import best_device, read_description
from v2meow.encoders.semantic.frames import Frames, MelFrames
from v2meow.encoders.semantic.ids import SemanticIds

__all__ = ["SemanticIds", "load_semantic", "new_semantic"]

_KINDS: dict[str, type[SemanticIdsConfig]] = {
    "mel": MelIdsConfig,
    "w2v-bert": PretrainedIdsConfig,
    "mert": PretrainedIdsConfig,
    "musicfm": PretrainedIdsConfig,
}


def new_semantic(config: SemanticIdsConfig, sample_rate: int) -> SemanticIds:
    """Ids that are not fitted yet, for waveforms of `sample_rate` Hz; pretrained models go on the GPU if there is one.

    AssetError when its weights are not in the store, ModelError naming the file when they cannot be used,
    RecipeError when it lacks the layer.
    """
    return SemanticIds(config, _frames(config, sample_rate)).eval()


def load_semantic(folder: Path) -> SemanticIds:
    """The fitted ids of a model folder. ModelError naming the file when they cannot be used; see `new_semantic`."""
    ids = new_semantic(*read_description(folder, _KINDS))
    weights.load_into(ids, folder)
    return ids


def _frames(config: SemanticIdsConfig, sample_rate: int) -> Frames:
    if isinstance(config, MelIdsConfig):
        return MelFrames(config, sample_rate)
    from v2meow.encoders.semantic.pretrained import PretrainedFrames  # here, because transformers takes seconds

    return PretrainedFrames(config, sample_rate, assets.folder(config.asset), best_device())
