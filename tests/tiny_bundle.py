"""A bundle of tiny, untrained parts: everything that generation and serving do with a bundle, in moments."""

from pathlib import Path
from typing import Any

import numpy as np
import tiny
import torch
import yaml

from v2meow import bundle, weights
from v2meow.config import STAGES, LappedCodecConfig, TwoTowerConfig
from v2meow.encoders.audio import describe
from v2meow.encoders.codec import LappedCodec
from v2meow.encoders.joint import TwoTower
from v2meow.encoders.semantic import new_semantic
from v2meow.media import write_video
from v2meow.model.io import save_stage

RATE = 16_000
ENCODERS = ("encoders/codec", "encoders/semantic", "encoders/joint")


def parts(folder: Path, changes: dict[str, Any] | None = None, seed: int = 0) -> dict[str, Path]:
    """What a bundle is made of, with random weights."""
    recipe = tiny.recipe(changes)
    torch.manual_seed(seed)
    assert isinstance(recipe.joint, TwoTowerConfig)
    joint, ids = TwoTower(recipe.joint, RATE), new_semantic(recipe.semantic_ids, RATE)
    ids.centroids.normal_()
    for stage in STAGES:
        save_stage(folder / stage, tiny.model(stage, recipe.stage(stage).layout, seed, changes), {})
    assert isinstance(recipe.codec, LappedCodecConfig)
    weights.save(folder / "encoders/codec", LappedCodec(recipe.codec), describe(recipe.codec, RATE), {})
    weights.save(folder / "encoders/joint", joint, describe(recipe.joint, RATE), {"follows_text": True})
    weights.save(folder / "encoders/semantic", ids, describe(recipe.semantic_ids, RATE), {})
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tiny.values(changes)))
    return {name: folder / name for name in (*STAGES, *ENCODERS, "recipe.yaml")}


def assembled(folder: Path, changes: dict[str, Any] | None = None, seed: int = 0) -> Path:
    """A bundle at `folder` / "bundle"."""
    bundle.assemble(parts(folder / "parts", changes, seed), folder / "bundle")
    return folder / "bundle"


def silent_video(path: Path, seconds: float = 2.6) -> Path:
    """A silent video at `path` whose picture changes."""
    count = round(10 * seconds)
    pictures = (np.full((64, 64, 3), 4 * number % 256, np.uint8) for number in range(count))
    write_video(path, pictures, 10, np.zeros(round(seconds * RATE), np.float32), RATE)
    return path
