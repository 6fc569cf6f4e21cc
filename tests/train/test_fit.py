"""Fitting from real files: what `fit semantic` and `fit joint` write, for encoders made here and pretrained ones."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_models
import torch

from v2meow.assets import Asset, AssetFile, store
from v2meow.config import Recipe
from v2meow.data import clips
from v2meow.data.manifest import RAW, read_clips
from v2meow.data.synthetic import FPS, SAMPLE_RATE, caption, draw_factors, draw_frames, play
from v2meow.encoders.joint import load_joint
from v2meow.encoders.semantic import load_semantic
from v2meow.files import read_json
from v2meow.media import write_video
from v2meow.train import fit
from v2meow.train.music import read_music, sample

PRETRAINED = {"layer": 2, "rate": 25, "clusters": 8, "sample_frames": 200, "bfloat16": False}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """Four videos of 4 s with captions, cut into clips."""
    folder = tmp_path_factory.mktemp("workspace")
    (folder / RAW).mkdir(parents=True)
    for index in range(4):
        random = np.random.default_rng(index)
        factors = draw_factors(random, index)
        video = folder / RAW / f"{index}.mp4"
        write_video(video, draw_frames(factors, random, 4.0), FPS, play(factors, random, 4.0), SAMPLE_RATE)
        video.with_suffix(".json").write_text(json.dumps({"caption": caption(factors, random)}))
    clips.run(tiny.recipe(), folder)
    return folder


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Puts an asset of this name into a store of its own, made by a function of `tiny_models`."""

    def put(name: str, save: Any) -> str:
        monkeypatch.setenv("V2MEOW_ASSETS", str(tmp_path))
        save(tmp_path / name)
        files = {path.name: store.verified(path) for path in (tmp_path / name).iterdir()}
        named = tuple(AssetFile(name=file) for file in files)
        store.remember(Asset(name=name, about="", licence="MIT", commercial=True, files=named), files)
        return name

    return put


def _music(recipe: Recipe, workspace: Path) -> torch.Tensor:
    return torch.cat([waveforms for _, waveforms in read_music(recipe, workspace, read_clips(workspace))])


def test_mel_ids_are_fitted_to_a_sample(workspace):
    recipe = tiny.recipe({"semantic_ids.sample_frames": 120})
    figures = fit.run("semantic", recipe, workspace)
    assert figures["frames"] == 150  # whole clips of 50
    assert 0 < figures["entropy_bits"] <= 4 and figures["dead_clusters"] < 16
    assert read_json(workspace / "models/encoders/semantic/metrics.json") == figures
    assert load_semantic(workspace / "models/encoders/semantic").encode(_music(recipe, workspace)).shape[1] == 50


def test_ids_of_a_pretrained_model_leave_its_weights_where_they_are(workspace, stored):
    ids = PRETRAINED | {"kind": "mert", "asset": stored("tiny-mert", tiny_models.save_mert)}
    recipe = tiny.recipe({"semantic_ids": ids})
    figures = fit.run("semantic", recipe, workspace)
    folder = workspace / "models/encoders/semantic"
    assert figures["frames"] == 200
    assert set(read_json(folder / "config.json")["asset"]) >= {"config.json", "pytorch_model.bin"}
    assert (folder / "model.safetensors").stat().st_size < 3000
    found = load_semantic(folder).encode(_music(recipe, workspace))
    assert found.shape[1] == 50 and len(found.unique()) > 4


def test_the_small_music_text_model_says_what_it_learnt(workspace):
    recipe = tiny.recipe()
    figures = fit.run("joint", recipe, workspace)
    split = [clip.split for clip in read_clips(workspace)]
    assert figures["pairs"] == split.count("train") and figures["follows_text"] is True
    assert figures["held_out_pairs"] == split.count("holdout") and 0 <= figures["text_recall_at_1"] <= 1
    folder = workspace / "models/encoders/joint"
    assert len(read_json(folder / "metrics.json")["curve"]) == 3
    assert read_json(folder / "config.json")["width"] == load_joint(folder).width == tiny.JOINT_WIDTH


def test_a_pretrained_music_text_model_is_measured(workspace, stored):
    joint = {"kind": "clap", "asset": stored("tiny-clap", tiny_models.save_clap), "batch": 4, "bfloat16": False}
    recipe = tiny.recipe({"joint": joint})
    figures = fit.run("joint", recipe, workspace)
    folder = workspace / "models/encoders/joint"
    assert figures["follows_text"] is True and "recall_at_1" in figures and "curve" not in figures
    assert read_json(folder / "config.json")["width"] == 6
    vectors = load_joint(folder).embed_audio(_music(recipe, workspace))
    assert vectors.shape[1] == 6 and vectors.isfinite().all()


def test_captions_stay_with_their_music(workspace, tmp_path):
    """A clip that cannot be read is left out with its caption; the rest must not move up."""
    known = read_clips(workspace)
    gone = [clip for clip in known if clip.path == known[0].path]
    (workspace / gone[0].path).rename(tmp_path / "away.mp4")
    try:
        read = [clip for part, _ in read_music(tiny.recipe(), workspace, known) for clip in part]
    finally:
        (tmp_path / "away.mp4").rename(workspace / gone[0].path)
    assert read == [clip for clip in known if clip not in gone]


def test_a_sample_is_random_and_the_same_for_a_seed(workspace):
    """The first frames of a stream begin the clusters: in the table's order they would be those of a few videos."""
    known = read_clips(workspace)
    found = sample(known, 6, seed=1)
    assert found == sample(known, 6, seed=1) != sample(known, 6, seed=2)
    assert found != sorted(found, key=known.index) and len(set(map(id, found))) == 6
    assert sample(known, 10**6, seed=1) != known


def test_numbers_below_the_normal_ones_are_there_again_afterwards(workspace):
    """Flushing them to nought is a switch of the whole process, and other work in it may need them."""
    fit.run("semantic", tiny.recipe(), workspace)
    assert float(torch.tensor(1e-39) * torch.tensor(1.0)) > 0.0
