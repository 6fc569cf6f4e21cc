"""The parts of a bundle, each loaded alone: a process that runs one stage needs no other.

The folder is taken as it is: whoever names it has verified it.
"""

from pathlib import Path

import torch
from torch import Tensor

from v2meow import assets
from v2meow.config import Recipe, StageName, load_recipe
from v2meow.encoders.joint import load_joint
from v2meow.encoders.visual import check_assets
from v2meow.files import read_json
from v2meow.generate.engine import Engine
from v2meow.generate.guidance import guidance_rows
from v2meow.generate.parallel import ParallelEngine
from v2meow.model.io import load_stage
from v2meow.weights import METRICS

VISUAL = "encoders/visual.json"  # in a bundle: fingerprints of the assets of visual extractors, where there are any

StageEngine = Engine | ParallelEngine


class PromptError(ValueError):
    """A prompt that this model cannot follow."""


def device() -> torch.device:
    """Where models run: a GPU, where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def bundle_recipe(folder: Path) -> Recipe:
    """The recipe of a bundle.

    AssetError when it names pretrained weights that are not here, or that it may not use; ModelError when they are
    others than it was trained with.
    """
    recipe = load_recipe(folder / "recipe.yaml")
    assets.check_licences(recipe)
    extracted = folder / VISUAL
    check_assets(extracted, recipe.visual, read_json(extracted) if extracted.is_file() else {})
    return recipe


def stage_engine(folder: Path, recipe: Recipe, name: StageName, pieces: int) -> StageEngine:
    """The engine of a stage, with room for windows of `pieces` at once, with all that guidance needs of each."""
    model = load_stage(folder / name).to(device())
    sampling, seconds = recipe.sampling(name), recipe.stage(name).window_seconds
    copies = len(guidance_rows(sampling, has_video=bool(model.spec.visual), has_text=bool(model.spec.joint_width)))
    make = Engine if model.causal else ParallelEngine
    return make(model, sampling, rows=copies * pieces, seconds=seconds, precision=recipe.generate.precision)


class TextTower:
    """What turns a prompt into the music-text vector that the semantic stage follows."""

    def __init__(self, folder: Path) -> None:
        joint = folder / "encoders" / "joint"
        self._joint = load_joint(joint)
        self._follows = bool(read_json(joint / METRICS)["follows_text"])

    @torch.inference_mode()
    def embed(self, prompt: str) -> Tensor:
        """[width]. PromptError when the model was trained without captions, or the prompt is empty."""
        if not self._follows:
            raise PromptError("prompt: this model was trained on videos without captions and cannot follow text")
        if not prompt.strip():
            raise PromptError("prompt: it is empty")
        return self._joint.embed_text([prompt])[0]
