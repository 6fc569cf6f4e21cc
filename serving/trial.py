"""The trial of steps before they are served: the whole cascade scores a second, a step alone works on a blank one."""

import tempfile
from pathlib import Path

import numpy as np
import torch

from serving.rehearsal import grey_video, rehearse
from serving.steps import Steps
from serving.tensors import StepName, Tensors
from v2meow.config import STAGES
from v2meow.generate.piece import Brief, Piece

_SECONDS = 1.0


async def try_steps(steps: Steps, chosen: tuple[StepName, ...]) -> None:
    """Let each of the chosen steps work. RehearsalError, or what a part raises."""
    if "cascade" in chosen:  # it uses every part that the others use
        await rehearse(steps.parts, steps.edition, steps.recipe)
        return
    for step in chosen:
        await steps.run(step, _blank(steps, step), {})


def _blank(steps: Steps, step: StepName) -> Tensors:
    """What a step takes, of a grey second."""
    if step == "visual":
        with tempfile.TemporaryDirectory() as folder:
            return {"video": np.array([grey_video(Path(folder)).read_bytes()], dtype=object)}
    recipe = steps.recipe
    brief = Brief(visual=tuple(torch.zeros(1, 0) for _ in recipe.visual), joint=None, seconds=_SECONDS, seed=0)
    tracks = Piece(brief, recipe).tracks
    sizes = {name: tracks[name].shape[1] for name in STAGES}
    sizes |= {f"visual.{place}": steps.rows(place, _SECONDS) for place in range(len(recipe.visual))}
    given: Tensors = {"seed": np.array([0]), "seconds": np.array([_SECONDS])}
    for spec in steps.contracts[step].inputs:
        if spec.name in sizes:
            kind = np.float32 if "FP32" in spec.kinds else np.int64
            given[spec.name] = np.zeros([sizes[spec.name] if size < 0 else size for size in spec.shape], kind)
    return {spec.name: given[spec.name] for spec in steps.contracts[step].inputs if spec.name in given}
