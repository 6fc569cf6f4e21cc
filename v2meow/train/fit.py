"""The steps `fit codec`, `fit semantic` and `fit joint`: the extractors that a recipe trains itself."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from v2meow import weights
from v2meow.config import Recipe, RecipeError
from v2meow.data.manifest import Clip, Split, read_clips
from v2meow.data.reading import read_media
from v2meow.encoders.codec import Codec
from v2meow.encoders.joint import TwoTower
from v2meow.encoders.semantic import SemanticIds
from v2meow.progress import progress
from v2meow.train.codec import reconstruction, train_codec
from v2meow.train.optim import make_optimizer, rate_at, set_rate

_HELD_OUT_CLIPS = 16  # that the codec is measured on


def run(name: str, recipe: Recipe, workspace: Path) -> dict[str, Any]:
    """Fit extractor `name` on the training split and write models/encoders/NAME."""
    torch.manual_seed(recipe.seed)
    torch.set_flush_denormal(True)  # silence in the catalogue makes k-means five times slower otherwise
    fit = {"codec": _fit_codec, "semantic": _fit_semantic, "joint": _fit_joint}[name]
    module, config, metrics = fit(recipe, workspace)
    weights.save(workspace / "models" / "encoders" / name, module, config, metrics)
    return {key: value for key, value in metrics.items() if key != "curve"}


def _fit_codec(recipe: Recipe, workspace: Path) -> tuple[Codec, dict, dict]:
    frames = recipe.codec.sample_frames
    clips = _sample(read_clips(workspace), "train", math.ceil(2 * frames / recipe.codec_frames), recipe.seed)
    waveforms = _waveforms(recipe, workspace, clips)
    if waveforms.shape[0] * recipe.codec_frames < recipe.codec.bins:
        raise RecipeError(f"codec.bins: {recipe.codec.bins} codebook entries need more audio than the catalogue has")
    codec, curve = Codec(recipe.codec), []
    with progress("train the codec", recipe.codec.steps) as bar:

        def on_step(loss: float) -> None:
            bar.advance(note=f"loss {loss:.3f}")
            curve.append({"step": len(curve), "loss": loss})

        train_codec(codec, waveforms, recipe.seed, on_step)
    held_out = _sample(read_clips(workspace), "holdout", _HELD_OUT_CLIPS, recipe.seed)
    figures = reconstruction(codec, _waveforms(recipe, workspace, held_out))
    return codec, asdict(recipe.codec), {**figures, "curve": curve}


def _fit_semantic(recipe: Recipe, workspace: Path) -> tuple[SemanticIds, dict, dict]:
    wanted = math.ceil(recipe.semantic_ids.sample_frames / recipe.semantic_frames)
    clips = _sample(read_clips(workspace), "train", wanted, recipe.seed)
    ids = SemanticIds(recipe.semantic_ids, recipe.codec.sample_rate)
    parts = _waveforms(recipe, workspace, clips).split(32)
    frames = torch.cat([ids.features(part).flatten(0, 1) for part in parts])
    error = ids.fit(frames, recipe.seed)
    config = {"config": asdict(recipe.semantic_ids), "sample_rate": recipe.codec.sample_rate}
    return ids, config, {"mean_squared_distance": error, "frames": len(frames)}


def _fit_joint(recipe: Recipe, workspace: Path) -> tuple[TwoTower, dict, dict]:
    """Without captions there is nothing to learn from: the model stays as it began and says `pairs: 0`."""
    config = recipe.joint
    model = TwoTower(config, recipe.codec.sample_rate)
    saved = {"config": asdict(config), "sample_rate": recipe.codec.sample_rate}
    clips = [clip for clip in read_clips(workspace) if clip.caption]
    train = [clip for clip in clips if clip.split == "train"]
    if len(train) < 2:
        return model, saved, {"pairs": 0}
    features = _joint_features(recipe, workspace, model, train)
    captions, curve = [clip.caption for clip in train], []
    optimizer = make_optimizer(model, config.learning_rate, 0.01)
    generator = torch.Generator().manual_seed(recipe.seed)
    with progress("train the music-text model", config.steps) as bar:
        for step in range(config.steps):
            set_rate(optimizer, rate_at(step, peak=config.learning_rate, warmup=10, total=config.steps))
            rows = torch.randperm(len(train), generator=generator)[: config.batch]
            loss = model.loss(features[rows], [captions[row] for row in rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            bar.advance(note=f"loss {loss.item():.3f}")
            curve.append({"step": step, "loss": loss.item()})
    metrics: dict[str, Any] = {"pairs": len(train), "curve": curve}
    held_out = [clip for clip in clips if clip.split == "holdout"]
    if held_out:
        metrics |= _retrieval(model, _joint_features(recipe, workspace, model, held_out), [c.caption for c in held_out])
    return model.eval(), saved, metrics


@torch.inference_mode()
def _retrieval(model: TwoTower, features: Tensor, captions: list[str]) -> dict[str, float]:
    """Share of held-out audio whose own caption is nearest (R@1) or among the ten nearest; chance beside it."""
    distinct = sorted(set(captions))
    similarity = model.embed_features(features) @ model.embed_text(distinct).T
    own = torch.tensor([distinct.index(caption) for caption in captions])
    rank = (similarity > similarity.gather(1, own[:, None])).sum(1)
    figures = {f"recall_at_{k}": float((rank < k).float().mean()) for k in (1, 10)}
    return {**figures, "chance_at_1": 1 / len(distinct), "held_out_pairs": len(captions)}


@torch.no_grad()
def _joint_features(recipe: Recipe, workspace: Path, model: TwoTower, clips: list[Clip]) -> Tensor:
    """[N, …] features of the audio tower."""
    return torch.cat([model.audio_features(part) for part in _waveforms(recipe, workspace, clips).split(32)])


def _sample(clips: list[Clip], split: Split, count: int, seed: int) -> list[Clip]:
    """At most `count` random clips of a split, in a fixed order."""
    chosen = [clip for clip in clips if clip.split == split]
    generator = torch.Generator().manual_seed(seed)
    return [chosen[row] for row in torch.randperm(len(chosen), generator=generator)[:count].sort().values]


def _waveforms(recipe: Recipe, workspace: Path, clips: list[Clip]) -> Tensor:
    """Waveforms [N, T] of the clips that can be read."""
    read = []
    with progress("read the music", len(clips)) as bar:
        for media in read_media(recipe, workspace, clips, frames=False):
            bar.advance()
            if not media.failure:
                read.append(torch.from_numpy(media.waveform))
    return torch.stack(read)
