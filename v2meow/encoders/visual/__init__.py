"""Visual features: what a recipe's extractor makes of the pictures that its configuration asks for.

Which pictures those are (`frame_rate`, `size`, `whole`) is known without weights, so that the processes that decode
need none. Libraries of pretrained extractors are imported when the first of them is asked for.
"""

from functools import cache
from typing import Protocol

import numpy as np
import torch

from v2meow import assets
from v2meow.config import ClipConfig, FlowConfig, MotionConfig, VisualConfig
from v2meow.encoders.visual.motion import WIDTH, Motion, motion

__all__ = ["WIDTH", "VisualExtractor", "load_visual", "motion"]


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
