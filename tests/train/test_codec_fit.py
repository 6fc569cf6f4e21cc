"""Fitting codecs from real files: what `fit codec` writes, for the one that is trained here and a published one."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from v2meow.assets import Asset, AssetFile, store
from v2meow.config import RecipeError
from v2meow.data import clips
from v2meow.data.manifest import RAW
from v2meow.data.synthetic import FPS, SAMPLE_RATE, caption, draw_factors, draw_frames, play
from v2meow.encoders.codec import LappedCodec, load_codec
from v2meow.encoders.codec.pretrained import CHECKPOINTS, EncodecParts
from v2meow.files import read_json
from v2meow.media import write_video
from v2meow.train import fit


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """Four videos of 4 s, cut into clips."""
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


def test_the_small_codec_is_trained_and_measured(workspace):
    figures = fit.run("codec", tiny.recipe(), workspace)
    folder = workspace / "models/encoders/codec"
    metrics = read_json(folder / "metrics.json")
    assert len(metrics.pop("curve")) == 2 and metrics == figures
    assert figures["si_sdr_db"] > -15 and figures["mel_distance"] < 1.5 and abs(figures["buzz_db"]) < 6
    codec = load_codec(folder)
    assert isinstance(codec, LappedCodec) and codec.config == tiny.recipe().codec


def test_a_published_codec_is_measured_and_its_weights_stay_where_they_are(workspace, tmp_path, monkeypatch):
    monkeypatch.setenv("V2MEOW_ASSETS", str(tmp_path))
    path = tmp_path / "tiny-encodec" / CHECKPOINTS[24_000]
    path.parent.mkdir()
    torch.manual_seed(0)
    torch.save(EncodecParts(24_000, filters=2, width=8, levels=4, bins=1024).state_dict(), path)
    files = {path.name: store.verified(path)}
    named = (AssetFile(name=path.name),)
    store.remember(Asset(name="tiny-encodec", about="", licence="MIT", commercial=True, files=named), files)
    section = {"kind": "encodec", "asset": "tiny-encodec", "sample_rate": 24_000, "bandwidth": 3.0}
    recipe = tiny.recipe({"codec": section})
    figures = fit.run("codec", recipe, workspace)
    folder = workspace / "models/encoders/codec"
    assert figures["kilobits_per_second"] == 3.0 and "curve" not in figures
    assert read_json(folder / "config.json")["asset"] == {path.name: files[path.name].sha256}
    assert (folder / "model.safetensors").stat().st_size < 100
    assert load_codec(folder).encode(torch.zeros(1, 24_000)).shape == (1, 4, 75)


def test_a_catalogue_with_fewer_frames_than_entries_is_refused(workspace):
    with pytest.raises(RecipeError, match=r"codec\.bins"):
        fit.run("codec", tiny.recipe({"codec.bins": 4096}), workspace)


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("codec.beam", {"codec.beam": 0}),
        ("codec.adversarial_weight", {"codec.adversarial_weight": -1.0}),
        ("codec.discriminator_filters", {"codec.adversarial_weight": 1.0, "codec.discriminator_filters": 0}),
        ("codec.segment_seconds", {"codec.adversarial_weight": 1.0, "codec.segment_seconds": 0.1}),
    ],
)
def test_values_that_training_cannot_use_are_refused_by_their_key(key, changes):
    with pytest.raises(RecipeError, match=key):
        tiny.recipe(changes)
