"""Visual features: what a recipe's extractor makes of the pictures that its configuration asks for.

Which pictures those are (`frame_rate`, `size`, `whole`) is known without weights, so that the processes that decode
need none. Libraries of pretrained extractors are imported when the first of them is asked for.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from v2meow import assets
from v2meow.config import ClipConfig, FlowConfig, MotionConfig, VisualConfig
from v2meow.encoders.published import check_asset
from v2meow.encoders.visual.motion import WIDTH, Motion, motion

__all__ = ["WIDTH", "VisualExtractor", "check_assets", "fingerprints", "load_visual", "motion"]


class VisualExtractor(Protocol):
    """A frozen extractor: equal frames give equal features."""

    @property
    def width(self) -> int:
        """Features a row."""
        ...

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Features float32 [V, width] of RGB frames uint8 [F, H, W, 3] that were read as the configuration says.

        Row v belongs to v / rate seconds after the first frame; V = round(F / frame_rate * rate).
        """
        ...


@cache
def load_visual(config: VisualConfig) -> VisualExtractor:
    """The extractor of that configuration, loaded once a process, on the GPU where there is one.

    AssetError when its weights are not in the store, ModelError naming the file when they cannot be used.
    """
    if isinstance(config, MotionConfig):
        return Motion()
    folder = assets.folder(config.asset)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if isinstance(config, ClipConfig):
        from v2meow.encoders.visual.clip import Clip

        return Clip(config, folder, device)
    if isinstance(config, FlowConfig):
        from v2meow.encoders.visual.flow import Flow

        return Flow(config, folder, device)
    from v2meow.encoders.visual.tokens import VisualTokens

    return VisualTokens(config, folder, device)


def fingerprints(visual: Iterable[VisualConfig]) -> dict[str, dict[str, str]]:
    """SHA-256 by file of each asset of these extractors, by its name: what their features depend on besides the recipe.

    AssetError when one is not in the store.
    """
    return {name: assets.fingerprint(name) for name in _assets(visual)}


def check_assets(path: Path, visual: Iterable[VisualConfig], extracted: Mapping[str, Mapping[str, str]]) -> None:
    """Compare the assets of these extractors with the `fingerprints` of those whose features were learnt from.

    ModelError that names `path`, where they stand, the asset and its files; AssetError when one is not in the store.
    """
    for name in _assets(visual):
        check_asset(path, name, extracted.get(name, {}), "learn anew with `v2meow extract`, then `v2meow run`")


def _assets(visual: Iterable[VisualConfig]) -> list[str]:
    return [config.asset for config in visual if not isinstance(config, MotionConfig)]
