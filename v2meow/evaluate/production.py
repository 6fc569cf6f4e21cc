"""The model beside the one in production: both score the same held-out clips, and are measured by one yardstick.

Which one is in production stands in production.json in the workspace, a file that git and DVC see: it is written before
the pipeline's staleness is computed, so that a promotion makes the next evaluation another one.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from v2meow.config import STAGES, Recipe, load_recipe
from v2meow.data.manifest import read_clips
from v2meow.data.reading import read_media
from v2meow.evaluate.material import Material, Music, compose
from v2meow.evaluate.profile import LEAST, Profile, Yardstick, better, nested
from v2meow.evaluate.statistics import paired
from v2meow.evaluate.surprise import surprise
from v2meow.generate.pipeline import Cascade
from v2meow.registry import fetch, read_pointer
from v2meow.workspace import PRODUCTION


def measure(material: Material, yardstick: Yardstick, candidate: Profile) -> dict[str, Any]:
    """Paired differences of every score to the production model's; a `reason` instead, where there are none."""
    named = read_pointer(material.workspace / PRODUCTION)
    if named is None:
        return {"model": None, "reason": "no model is in production yet"}
    about = vars(named)
    if named.bundle == material.cascade.bundle:
        return about | {"reason": "it is this very model"}
    folder = fetch(material.workspace, named)
    if reason := incompatible(load_recipe(folder / "recipe.yaml"), material.recipe):
        return about | {"reason": reason}
    if len(material.examples) < LEAST:
        return about | {"reason": f"{len(material.examples)} held-out clips: at least {LEAST} are needed"}
    cascade = Cascade(folder, pieces=material.recipe.evaluate.batch)
    music = compose(cascade, material.examples, material.recipe.evaluate.batch, label="let production score them")
    excess = excess_of(folder, cascade, material, music)
    found = compare(candidate, yardstick.profile(music, excess), yardstick.reference, material.recipe.seed)
    return about | nested(found)


def compare(
    candidate: Profile, production: Profile, reference: dict[str, np.ndarray], seed: int
) -> dict[str, dict[str, Any]]:
    """By dotted name, the row of each score that both profiles have: see `statistics.paired`."""
    ours, theirs = candidate.own(reference), production.own(reference)
    return {name: paired(ours[name], theirs[name], better(name), seed) for name in ours if name in theirs}


def incompatible(production: Recipe, candidate: Recipe) -> str | None:
    """Why a production model cannot score the candidate's clips, or None."""
    if production.visual != candidate.visual:
        return "it was trained on other visual features"
    if production.data.clip_seconds != candidate.data.clip_seconds:
        return f"it was trained on clips of {production.data.clip_seconds:g} s"
    if production.codec.sample_rate != candidate.codec.sample_rate:
        return f"its music has {production.codec.sample_rate} Hz"
    return None


def excess_of(folder: Path, cascade: Cascade, material: Material, music: Music) -> dict[str, np.ndarray]:
    """By stage, how many nats a code [N] a bundle's own music surprises it more than the real music does."""
    real = _in_codes_of(cascade, material)
    made, usual = (surprise(folder, cascade.recipe, material.examples, each) for each in (music, real))
    return {name: made[name] - usual[name] for name in STAGES}


def _in_codes_of(cascade: Cascade, material: Material) -> Music:
    """The real held-out music in a bundle's own ids and codes, from the videos as they are: what it was trained on."""
    if cascade.bundle == material.cascade.bundle:
        return material.real
    originals = _originals(material)
    parts = [
        (cascade.ids.encode(waveforms), cascade.codec.encode(waveforms))
        for waveforms in originals.split(material.recipe.evaluate.batch)
    ]
    ids, codes = (torch.cat(each).cpu() for each in zip(*parts, strict=True))
    return Music(waveforms=originals, ids=ids, codes=codes)


def _originals(material: Material) -> Tensor:
    """The soundtracks [N, T] of the held-out clips; of one that cannot be read any more, what the codec gives back."""
    by_id = {clip.clip_id: clip for clip in read_clips(material.workspace)}
    clips = [by_id[name] for name in material.examples.clip_id]
    read = read_media(material.recipe, material.workspace, clips, frames=False)
    return torch.stack(
        [
            real if each.failure else torch.from_numpy(each.waveform)
            for each, real in zip(read, material.real.waveforms, strict=True)
        ]
    )
