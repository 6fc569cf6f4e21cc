"""Material of an evaluation, made on the spot: scenes of the synthetic catalogue and the shipped model.

The music "generated" for the held-out scenes is their own, or that of others: what measures must find, or must not.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchaudio.functional import resample

from v2meow.config import Recipe
from v2meow.data import synthetic
from v2meow.data.dataset import Examples
from v2meow.data.manifest import CLIPS, Clip, write_clips
from v2meow.encoders.visual import load_visual
from v2meow.evaluate.gate import BUNDLE
from v2meow.evaluate.material import Material, Music
from v2meow.generate.pipeline import Cascade
from v2meow.media import write_video

SHIPPED = Path(__file__).parents[1] / "v2meow" / "shipped" / "nano"


def material(folder: Path, held_out: int = 12, train: int = 40) -> Material:
    """Scenes in `folder`: a table of clips and the held-out videos; `generated` is the real music."""
    cascade = Cascade(SHIPPED, pieces=held_out)
    recipe = cascade.recipe
    rate, seconds = recipe.codec.sample_rate, recipe.data.clip_seconds
    drawn = [_draw(seed, seconds) for seed in range(held_out + train)]
    waveforms = resample(torch.from_numpy(np.stack([music for _, _, _, music in drawn])), synthetic.SAMPLE_RATE, rate)
    codes = cascade.codec.encode(waveforms)
    everything = Examples(
        clip_id=[f"{row:016x}-0000" for row in range(len(drawn))],
        video_id=[f"{row:016x}" for row in range(len(drawn))],
        caption=[caption for _, caption, _, _ in drawn],
        attributes=[json.dumps(asdict(factors)) for factors, _, _, _ in drawn],
        semantic=cascade.ids.encode(waveforms)[:, None],
        codes=codes,
        visual=_features(recipe, [frames for _, _, frames, _ in drawn]),
        joint=torch.zeros(len(drawn), 32),
    )
    examples = everything.select(list(range(held_out)))
    for name, (_, _, frames, music) in zip(examples.video_id, drawn, strict=False):
        path = folder / "data" / "raw" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, iter(frames), synthetic.FPS, music, synthetic.SAMPLE_RATE)
    write_clips(folder / CLIPS, [clip(name, seconds) for name in examples.video_id])
    (folder / BUNDLE).parent.mkdir(parents=True)
    (folder / BUNDLE).symlink_to(SHIPPED)
    real = Music(waveforms=cascade.codec.decode(examples.codes), ids=examples.semantic[:, 0], codes=examples.codes)
    return Material(
        recipe=recipe,
        workspace=folder,
        cascade=cascade,
        examples=examples,
        train=everything.select(list(range(held_out, len(drawn)))),
        generated=real,
        real=real,
    )


def dealt(music: Music, rows: list[int]) -> Music:
    """The pieces in another order: each for the picture of another scene."""
    return Music(waveforms=music.waveforms[rows], ids=music.ids[rows], codes=music.codes[rows])


def seen_through(recipe: Recipe, frames: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> tuple[Tensor, ...]:
    """Features [1, V, width] of frames that `change` was done to."""
    return tuple(torch.from_numpy(load_visual(visual)(change(frames)))[None] for visual in recipe.visual)


def _draw(seed: int, seconds: float) -> tuple[synthetic.Factors, str, list[np.ndarray], np.ndarray]:
    random = np.random.default_rng((seed, 77))
    factors = synthetic.draw_factors(random, seed)
    frames = list(synthetic.draw_frames(factors, random, seconds))
    return factors, synthetic.caption(factors, random), frames, synthetic.play(factors, random, seconds)


def _features(recipe: Recipe, scenes: list[list[np.ndarray]]) -> tuple[Tensor, ...]:
    """As `extract` makes them, but for the scaling of the pictures."""
    (visual,) = recipe.visual
    shown = np.arange(round(recipe.data.clip_seconds * visual.rate)) / visual.rate * synthetic.FPS
    step = synthetic.PICTURE // visual.size
    rows = [load_visual(visual)(np.stack(frames)[shown.astype(int), ::step, ::step]) for frames in scenes]
    return (torch.from_numpy(np.stack(rows)),)


def clip(name: str, seconds: float) -> Clip:
    """The row of a held-out video of that length at data/raw/NAME.mp4."""
    return Clip(
        clip_id=f"{name}-0000",
        video_id=name,
        path=f"data/raw/{name}.mp4",
        sha256=name * 4,
        start=0.0,
        seconds=seconds,
        video_seconds=seconds,
        fps=synthetic.FPS,
        width=synthetic.PICTURE,
        height=synthetic.PICTURE,
        sample_rate=synthetic.SAMPLE_RATE,
        channels=1,
        loudness_db=-20.0,
        split="holdout",
        caption="",
        attributes={},
    )
