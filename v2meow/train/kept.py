"""Encoders that stay as they are while a catalogue grows: those of the model in production, brought instead of fitted.

With other encoders all ids mean something else: every clip of the catalogue would be extracted again for one new video.
"""

import shutil
from pathlib import Path
from typing import Any

from v2meow.config import Recipe, load_recipe
from v2meow.files import atomic_folder, read_json
from v2meow.registry import fetch, read_pointer
from v2meow.weights import METRICS
from v2meow.workspace import KEPT

ENCODERS = Path("models/encoders")


def keep_encoder(name: str, recipe: Recipe, workspace: Path) -> dict[str, Any] | None:
    """Write models/encoders/NAME as the model that encoders.json names has it, and return its figures.

    None where it names none, or one that was made otherwise: by another configuration of this encoder, at another
    sample rate, or with others held out.
    """
    named = read_pointer(workspace / KEPT)
    if named is None:
        return None
    bundle = fetch(workspace, named)
    if _decisive(name, load_recipe(bundle / "recipe.yaml")) != _decisive(name, recipe):
        return None
    with atomic_folder(workspace / ENCODERS / name) as temporary:
        shutil.copytree(bundle / "encoders" / name, temporary, dirs_exist_ok=True)
    figures = read_json(workspace / ENCODERS / name / METRICS)
    return {"kept_from": f"{named.model}@{named.version}"} | {
        key: value for key, value in figures.items() if key != "curve"
    }


def _decisive(name: str, recipe: Recipe) -> tuple[object, ...]:
    """What an encoder is made by, besides the videos."""
    section = {"codec": recipe.codec, "semantic": recipe.semantic_ids, "joint": recipe.joint}[name]
    return section, recipe.codec.sample_rate, recipe.data.holdout
