"""Image embeddings of CLIP (Radford et al., arXiv 2103.00020) and its kin: the only home of open_clip.

Knows nothing of where pictures come from; weights come from a folder as open_clip publishes them.
"""

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch

from v2meow.config import ClipConfig
from v2meow.encoders.published import find_weights, loading
from v2meow.encoders.visual.preprocess import Preprocess
from v2meow.files import read_json
from v2meow.weights import ModelError

_PUBLISHED = "open_clip_config.json"  # beside weights that come from a hub: how their pictures were prepared


class Clip:
    """Embeddings of single pictures, as the image tower gives them, not normalised."""

    def __init__(self, config: ClipConfig, folder: Path, device: torch.device) -> None:
        """Load the weights in `folder`; ModelError naming the file when they are damaged or of another model."""
        architecture = open_clip.get_model_config(config.model)
        if architecture is None:
            raise ModelError(f"open_clip has no model {config.model!r}; see open_clip.list_models()")
        weights = find_weights(folder, prefix="open_clip")
        published = read_json(folder / _PUBLISHED) if (folder / _PUBLISHED).is_file() else {}
        with loading(weights, f"a state dict of open_clip's {config.model}"):
            self._model: Any = open_clip.create_model(
                config.model,
                pretrained=str(weights),
                precision="bf16" if config.bfloat16 else "fp32",
                device=device,
                force_quick_gelu=published.get("model_cfg", {}).get("quick_gelu", False),
                force_preprocess_cfg=published.get("preprocess_cfg"),
                weights_only=True,
            ).eval()
        self.preprocess = _preprocess(open_clip.get_model_preprocess_cfg(self._model))
        self.width: int = architecture["embed_dim"]
        self._batch, self._device = config.batch, device
        self._dtype = torch.bfloat16 if config.bfloat16 else torch.float32

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Embeddings float32 [V, width] of RGB frames uint8 [V, H, W, 3], one row a frame."""
        assert frames.ndim == 4 and frames.shape[3] == 3, frames.shape
        rows = [
            self._model.encode_image(self.preprocess(part.to(self._device)).to(self._dtype)).float().cpu()
            for part in torch.from_numpy(frames).permute(0, 3, 1, 2).split(self._batch)
        ]
        return torch.cat(rows).numpy()


def _preprocess(cfg: dict[str, Any]) -> Preprocess:
    """open_clip's own description of a model's input."""
    size = cfg["size"]
    return Preprocess(
        size=(size, size) if isinstance(size, int) else tuple(size),
        mean=cfg["mean"],
        std=cfg["std"],
        interpolation="bilinear" if cfg["interpolation"] == "bilinear" else "bicubic",
        fit=cfg["resize_mode"],
        fill=cfg["fill_color"],
    )
