"""The steps `fit codec`, `fit semantic` and `fit joint`: what a recipe's encoders need before anything is extracted."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from v2meow import weights
from v2meow.config import Recipe
from v2meow.data.manifest import Clip
from v2meow.encoders.audio import describe
from v2meow.encoders.joint import JointEncoder, TwoTower, new_joint
from v2meow.encoders.semantic import new_semantic
from v2meow.progress import progress
from v2meow.train.codec import fit_codec
from v2meow.train.joint import retrieval, train_two_tower
from v2meow.train.kept import ENCODERS, keep_encoder
from v2meow.train.music import of_split, read_music, sample

_MOST_PAIRS = 50_000  # that the small music-text model is trained on: descriptors of 200 MB where clips have 10 s
_HELD_OUT_PAIRS = 1000  # that a music-text model is measured on


def run(name: str, recipe: Recipe, workspace: Path) -> dict[str, Any]:
    """Fit extractor `name` on the training split and write models/encoders/NAME, in float16.

    Or bring that of the model which encoders.json names, if it was made by the same recipe. It is the same file, byte
    for byte, and nothing needs to be extracted anew.
    """
    if kept := keep_encoder(name, recipe, workspace):
        return kept
    torch.manual_seed(recipe.seed)
    fit = {"codec": fit_codec, "semantic": _fit_semantic, "joint": _fit_joint}[name]
    torch.set_flush_denormal(True)  # silence in the catalogue makes k-means five times slower otherwise
    try:
        module, config, metrics = fit(recipe, workspace)
    finally:
        torch.set_flush_denormal(False)
    weights.save(workspace / ENCODERS / name, module, config, metrics, half=True)
    return {key: value for key, value in metrics.items() if key != "curve"}


def _fit_semantic(recipe: Recipe, workspace: Path) -> tuple[nn.Module, dict, dict]:
    config, rate = recipe.semantic_ids, recipe.codec.sample_rate
    ids = new_semantic(config, rate)
    wanted = math.ceil(config.sample_frames / recipe.semantic_frames)
    clips = sample(of_split(workspace, "train"), wanted, recipe.seed)
    music = read_music(recipe, workspace, clips)
    figures = ids.fit((ids.features(waveforms).flatten(0, 1) for _, waveforms in music), recipe.seed)
    return ids, describe(config, rate), figures


def _fit_joint(recipe: Recipe, workspace: Path) -> tuple[nn.Module, dict, dict]:
    """Train the small model, or measure a pretrained one, whose weights stay where they are.

    Without captions there is nothing to learn from: the small model stays as it began and says `follows_text: false`.
    """
    encoder = new_joint(recipe.joint, recipe.codec.sample_rate)
    train = [clip for clip in of_split(workspace, "train") if clip.caption]
    metrics: dict[str, Any] = {"pairs": len(train), "follows_text": True}
    if isinstance(encoder, TwoTower):
        metrics |= _train_two_tower(encoder, recipe, workspace, sample(train, _MOST_PAIRS, recipe.seed))
    if metrics["follows_text"]:
        metrics |= _held_out_retrieval(encoder, recipe, workspace)
    module = encoder if isinstance(encoder, nn.Module) else nn.Module()
    return module, describe(recipe.joint, recipe.codec.sample_rate) | {"width": encoder.width}, metrics


def _train_two_tower(model: TwoTower, recipe: Recipe, workspace: Path, clips: list[Clip]) -> dict[str, Any]:
    """Fit `model` in place; returns how many pairs there were, and the loss curve."""
    windows, captions, curve = [], [], []
    for part, waveforms in read_music(recipe, workspace, clips):
        windows.append(model.describe(waveforms))
        captions += [clip.caption for clip in part]
    if len(captions) < 2:
        model.eval()
        return {"pairs": 0, "follows_text": False}
    with progress("train the music-text model", model.config.steps) as bar:

        def on_step(loss: float) -> None:
            bar.advance(note=f"loss {loss:.3f}")
            curve.append({"step": len(curve), "loss": loss})

        train_two_tower(model, torch.cat(windows), captions, recipe.seed, on_step)
    return {"pairs": len(captions), "curve": curve}


@torch.inference_mode()
def _held_out_retrieval(encoder: JointEncoder, recipe: Recipe, workspace: Path) -> dict[str, float]:
    """See `retrieval`; nothing where no clip with a caption is held out."""
    clips = [clip for clip in of_split(workspace, "holdout") if clip.caption]
    audio, captions = [], []
    for part, waveforms in read_music(recipe, workspace, sample(clips, _HELD_OUT_PAIRS, recipe.seed)):
        audio.append(encoder.embed_audio(waveforms))
        captions += [clip.caption for clip in part]
    if not captions:
        return {}
    distinct = sorted(set(captions))
    return retrieval(torch.cat(audio), captions, encoder.embed_text(distinct), distinct)
