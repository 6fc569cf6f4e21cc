"""All pretrained kinds in one model: from videos to examples, stages, a bundle, and music for a silent video.

The weights are random, the widths tiny (but I3D's, which are fixed); formats, files and code are the real ones.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_models
import torch
import yaml
from pretrained import MODEL, tiny_clip
from safetensors.torch import save_file
from torch import nn
from transformers import ChameleonVQVAE, ChameleonVQVAEConfig

from v2meow.assets import FOLDER_VARIABLE, Asset, AssetError, AssetFile, store
from v2meow.config import STAGES, Recipe
from v2meow.data import clips, extract
from v2meow.data.checks import check_features
from v2meow.data.dataset import Examples, read_examples
from v2meow.data.extract.partial import fingerprint
from v2meow.data.manifest import RAW, read_clips
from v2meow.data.synthetic import FPS, SAMPLE_RATE, caption, draw_factors, draw_frames, play
from v2meow.encoders.codec.pretrained import CHECKPOINTS, EncodecParts
from v2meow.encoders.visual import WIDTH
from v2meow.encoders.visual.i3d import I3D
from v2meow.evaluate.step import assemble
from v2meow.files import read_json
from v2meow.generate.files import Order, generate_file, read_features
from v2meow.media import read_wav, write_video
from v2meow.train import fit, step
from v2meow.weights import ModelError

pytestmark = pytest.mark.slow

EXTRACTOR: dict[str, Any] = {"rate": 1.0, "batch": 4, "bfloat16": False}
CHANGES: dict[str, Any] = {
    "data.hop_seconds": 2.0,
    "visual": [
        {"kind": "motion", "rate": 10.0, "size": 64},
        {"kind": "clip", "asset": "tiny-clip", "model": MODEL, **EXTRACTOR, "rate": 2.0},
        {"kind": "i3d-flow", "asset": "random-i3d", "frame_rate": 8.0, "window_frames": 8, **EXTRACTOR, "rate": 0.5},
        {"kind": "vq-tokens", "asset": "tiny-vq", "size": 32, "grid": 2, **EXTRACTOR},
    ],
    "semantic_ids": {
        **{"kind": "w2v-bert", "asset": "tiny-w2v-bert", "layer": 2, "rate": 25},
        **{"clusters": 8, "sample_frames": 200, "bfloat16": False},
    },
    "codec": {"kind": "encodec", "asset": "tiny-encodec", "sample_rate": 24_000, "bandwidth": 3.0},
    "joint": {"kind": "clap", "asset": "tiny-clap", "batch": 4, "bfloat16": False},
    **{f"stages.{name}.steps": 2 for name in STAGES},
    "generate.semantic.guide_text": 200.0,  # what a prompt changes after two steps is little
}
RATE, WIDTHS = 24_000, (WIDTH, 16, 1024, 32)


@dataclass(frozen=True)
class Trained:
    """A workspace with a bundle, the store that it was made with, and what the steps told."""

    recipe: Recipe
    workspace: Path
    store: Path
    fitted: dict[str, dict[str, Any]]
    checked: dict[str, Any]

    @property
    def bundle(self) -> Path:
        return self.workspace / "models/bundle"


def _save_clip(folder: Path) -> None:
    save_file(tiny_clip(folder.parent).state_dict(), folder / "open_clip_model.safetensors")


def _save_i3d(folder: Path) -> None:
    torch.manual_seed(0)
    made = I3D()
    for module in made.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")  # else no signal comes through
    torch.save(made.state_dict(), folder / "flow_imagenet.pt")


def _save_vq(folder: Path) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"embed_dim": 8, "latent_channels": 8, "base_channels": 32, "num_res_blocks": 1}
    config = ChameleonVQVAEConfig(**sizes, channel_multiplier=[1, 1, 1], num_embeddings=32, resolution=32)
    ChameleonVQVAE(config).save_pretrained(folder)


def _save_encodec(folder: Path) -> None:
    torch.manual_seed(0)
    parts = EncodecParts(RATE, filters=4, width=16, levels=4, bins=1024)
    layers: Any = parts.quantizer.vq.layers
    for layer in layers:
        layer._codebook.embed.normal_(std=0.05)
    for name, parameter in parts.named_parameters():
        parameter.data.mul_(2.0 if name.endswith("weight_g") else 1.0)  # else hardly a signal comes through
        parameter.data.mul_(0.0 if name.endswith("bias") else 1.0)  # else hardly anything but they
    torch.save(parts.state_dict(), folder / CHECKPOINTS[RATE])


PUBLISHED: dict[str, Callable[[Path], Any]] = {
    "tiny-clip": _save_clip,
    "random-i3d": _save_i3d,
    "tiny-vq": _save_vq,
    "tiny-w2v-bert": tiny_models.save_w2v_bert,
    "tiny-encodec": _save_encodec,
    "tiny-clap": tiny_models.save_clap,
}


def _record(name: str, commercial: bool = True) -> None:
    """Make what lies in the store's folder the asset of that name, whatever it was before."""
    (store.root() / name / "asset.json").unlink(missing_ok=True)
    files = {path.name: store.verified(path) for path in sorted((store.root() / name).iterdir())}
    named = tuple(AssetFile(name=file) for file in files)
    licence = "MIT" if commercial else "CC-BY-NC-4.0"
    store.remember(Asset(name=name, about="", licence=licence, commercial=commercial, files=named), files)


def _weights(name: str) -> Path:
    """The largest file of an asset."""
    return max((store.root() / name).iterdir(), key=lambda path: path.stat().st_size)


def _make_videos(folder: Path) -> None:
    """Three videos of 4 s with captions."""
    folder.mkdir(parents=True)
    for index in range(3):
        random = np.random.default_rng(index)
        factors = replace(draw_factors(random, index), energy=0.5)
        video = folder / f"{index}.mp4"
        write_video(video, draw_frames(factors, random, 4.0), FPS, play(factors, random, 4.0), SAMPLE_RATE)
        video.with_suffix(".json").write_text(json.dumps({"caption": caption(factors, random)}))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Every step from three videos to a bundle."""
    shelf, workspace = tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("workspace")
    recipe = tiny.recipe(CHANGES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(shelf))
        for name, save in PUBLISHED.items():
            (shelf / name).mkdir()
            save(shelf / name)
            _record(name)
        (workspace / "recipe.yaml").write_text(yaml.safe_dump(tiny.values(CHANGES)))
        _make_videos(workspace / RAW)
        clips.run(recipe, workspace)
        fitted = {name: fit.run(name, recipe, workspace) for name in ("codec", "semantic", "joint")}
        extract.run(recipe, workspace)
        checked = check_features(recipe, workspace)
        for stage in STAGES:
            step.run(stage, recipe, workspace)
        made = Trained(recipe, workspace, shelf, fitted, checked)
        assemble(workspace, made.bundle)
    return made


@pytest.fixture(autouse=True)
def shelf(trained, tmp_path, monkeypatch) -> Path:
    """A copy of the store, for one test to spoil."""
    place = tmp_path / "store"
    shutil.copytree(trained.store, place)
    monkeypatch.setenv(FOLDER_VARIABLE, str(place))
    return place


@pytest.fixture(scope="module")
def silent(tmp_path_factory) -> Path:
    """A video of 2.6 s without a sound."""
    path, random = tmp_path_factory.mktemp("video") / "silent.mp4", np.random.default_rng(9)
    frames = draw_frames(draw_factors(random, 5), random, 2.6)
    write_video(path, frames, FPS, np.zeros(round(2.6 * SAMPLE_RATE), np.float32), SAMPLE_RATE)
    return path


@pytest.fixture(scope="module")
def examples(trained) -> Examples:
    """All but what is held out."""
    return read_examples(trained.recipe, trained.workspace, "train")


def test_every_encoder_is_fitted_and_its_weights_stay_in_the_store(trained):
    assert trained.fitted["codec"]["kilobits_per_second"] == 3.0
    assert trained.fitted["semantic"]["entropy_bits"] > 1
    assert trained.fitted["joint"]["follows_text"] is True
    for name, asset in (("codec", "tiny-encodec"), ("semantic", "tiny-w2v-bert"), ("joint", "tiny-clap")):
        saved = read_json(trained.bundle / "encoders" / name / "config.json")
        assert saved["config"]["asset"] == asset and _weights(asset).name in saved["asset"]
        assert (trained.bundle / "encoders" / name / "model.safetensors").stat().st_size < 3000


def test_examples_have_the_rates_and_widths_of_all_encoders(trained, examples):
    clips_of_2_s = len(examples)
    assert trained.checked["examples"] == 6 and trained.checked["warnings"] == [] and clips_of_2_s in (2, 4)
    frames = (20, 4, 1, 2)  # in 2 s
    assert [part.shape for part in examples.visual] == [
        (clips_of_2_s, count, width) for count, width in zip(frames, WIDTHS, strict=True)
    ]
    assert examples.semantic.shape == (clips_of_2_s, 1, 50) and len(examples.semantic.unique()) > 2
    assert examples.codes.shape == (clips_of_2_s, 4, 150) and len(examples.codes.unique()) > 16
    assert examples.joint.shape == (clips_of_2_s, 6)
    for features in (*examples.visual, examples.joint[:, None]):
        assert (features.flatten(0, 1).std(0) > 2e-3).any()  # no extractor is blind


def test_a_video_has_the_features_for_music_that_it_was_learnt_with(trained, examples, reader):
    """Extraction reads clips together, generation one after the other: the model must not notice."""
    first = next(clip for clip in read_clips(trained.workspace) if clip.split == "train")
    found = read_features(trained.recipe, reader, trained.workspace / first.path, 4.0)
    names = [f"{first.video_id}-{number:04d}" for number in (0, 1)]  # from 0 s and from 2 s
    rows = [examples.clip_id.index(name) for name in names]
    for features, learnt, visual in zip(found, examples.visual, trained.recipe.visual, strict=True):
        expected = learnt[rows].flatten(0, 1)
        seen = len(expected) - round(visual.context_seconds * visual.rate)  # beyond the end the picture stands still
        torch.testing.assert_close(features[:seen], expected[:seen], atol=1e-4, rtol=1e-3)


def test_a_silent_video_gets_music_of_its_length_with_and_without_a_prompt(trained, silent, tmp_path, reader):
    sound = {}
    for name, prompt in (("plain", None), ("asked", "slow dark strings")):
        out = tmp_path / f"{name}.mp4"
        generate_file(silent, out, trained.bundle, Order(prompt=prompt, seed=3, wav=True))
        sound[name], rate = read_wav(out.with_suffix(".wav"))
        assert rate == RATE and len(sound[name]) == round(reader.probe(silent).seconds * RATE)
        assert np.isfinite(sound[name]).all() and sound[name].std() > 0
        heard = reader.probe(out).audio
        assert heard is not None and heard.seconds == pytest.approx(2.6, abs=0.05)
    assert not np.array_equal(sound["plain"], sound["asked"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_damaged_asset_is_one_error_that_names_it(trained, silent, tmp_path, name):
    file = _weights(name)
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(AssetError, match=rf"(?s)the asset {name} cannot be used.*{file.name} is damaged"):
        generate_file(silent, tmp_path / "out.mp4", trained.bundle, Order())


@pytest.mark.parametrize("name", PUBLISHED)
def test_another_asset_of_the_same_name_is_one_error_that_names_it(trained, silent, tmp_path, name):
    """On another machine a name may stand for other weights: what the stages learnt would mean nothing to them."""
    file = _weights(name)
    file.write_bytes(file.read_bytes() + b" ")
    _record(name)
    with pytest.raises(ModelError, match=rf"other files of the asset {name} than those.*{file.name}"):
        generate_file(silent, tmp_path / "out.mp4", trained.bundle, Order())


def test_features_of_other_weights_are_not_gone_on_with(trained):
    before = fingerprint(trained.recipe, trained.workspace)
    file = _weights("tiny-vq")
    file.write_bytes(file.read_bytes() + b" ")
    _record("tiny-vq")
    assert fingerprint(trained.recipe, trained.workspace) != before


def test_a_commercial_recipe_refuses_what_is_not_for_commercial_use(trained, silent, tmp_path):
    """The licence of each asset counts, those of the pictures too."""
    for name in ("random-i3d", "tiny-clap"):
        _record(name, commercial=False)
    generous = trained.workspace / "recipe.yaml"
    text = generous.read_text()
    try:
        generous.write_text(yaml.safe_dump(tiny.values(CHANGES | {"commercial_only": True})))
        assemble(trained.workspace, tmp_path / "bundle")
    finally:
        generous.write_text(text)
    barred = r"commercial_only.*: random-i3d \(CC-BY-NC-4\.0\), tiny-clap \(CC-BY-NC-4\.0\)$"
    with pytest.raises(AssetError, match=barred):
        generate_file(silent, tmp_path / "out.mp4", tmp_path / "bundle", Order())
