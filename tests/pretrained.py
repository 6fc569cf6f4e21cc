"""Tiny, randomly initialised models in the formats that their real ones are published in."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch

MODEL = "tiny-clip"  # 16 features of pictures of 32 x 32 pixels
_ARCHITECTURE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}


def tiny_clip(folder: Path, seed: int = 0) -> open_clip.CLIP:
    """A CLIP that open_clip can make by the name MODEL."""
    (folder / f"{MODEL}.json").write_text(json.dumps(_ARCHITECTURE))
    open_clip.add_model_config(folder)
    torch.manual_seed(seed)
    made: Any = open_clip.create_model(MODEL)
    return made.eval()


def pictures(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Random pictures uint8 [count, height, width, 3] with coarse and fine detail."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, height // 8 + 1, width // 8 + 1, 3))
    detail = random.integers(-40, 41, (count, height, width, 3))
    blocks = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    return np.clip(blocks + detail, 0, 255).astype(np.uint8)
