"""The codecs' contest on a folder of music: every file is told of, on a part that nobody trained on."""

import math
from pathlib import Path

import numpy as np
import pytest
import tiny
import yaml

from benchmarks import codec
from v2meow.config import LappedCodecConfig, load_recipe
from v2meow.encoders.audio import describe
from v2meow.encoders.codec import LappedCodec
from v2meow.media import write_wav
from v2meow.weights import save


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny.values()))
    return str(path)


@pytest.fixture
def folder(tmp_path):
    """Two files of 6 s, one that ends in silence after 2 s, and one that is no music."""
    folder, time = tmp_path / "music", np.arange(6 * 16_000) / 16_000
    folder.mkdir()
    for name, pitch in (("a.wav", 220.0), ("b.wav", 330.0), ("short.wav", 440.0)):
        tone = 0.3 * np.sin(2 * math.pi * pitch * time) * np.exp(-3 * (time % 0.5))
        if name == "short.wav":
            tone[32_000:] = 0
        write_wav(folder / name, tone.astype(np.float32), 16_000)
    (folder / "notes.txt").write_text("no music")
    return folder


def test_every_file_of_music_has_its_figures_and_the_mean_ends_them(folder, recipe):
    first, *rows = codec.quality(folder, recipe)
    assert first["peer_steps"] >= 1 and first["fit_seconds"] > 0
    assert [row["file"] for row in rows] == ["a.wav", "b.wav", "mean"]
    for key in ("si_sdr_db", "mel_distance", "buzz_db", "peer_si_sdr_db", "peer_mel_distance", "peer_buzz_db"):
        assert rows[2][key] == pytest.approx((rows[0][key] + rows[1][key]) / 2)
    assert rows[2]["mel_distance"] < rows[2]["peer_mel_distance"]


@pytest.fixture
def bundle(recipe, tmp_path):
    """Just the codec of a bundle, fitted to nothing."""
    config = load_recipe(Path(recipe)).codec
    assert isinstance(config, LappedCodecConfig)
    save(tmp_path / "bundle" / "encoders" / "codec", LappedCodec(config), describe(config, config.sample_rate), {})
    return tmp_path / "bundle"


def test_the_codec_of_a_bundle_is_measured_as_it_is(folder, recipe, bundle):
    """Were it fitted in passing, or another measured under its name, it would be as good as ours."""
    first, *rows = codec.quality(folder, recipe, bundle, peer_times=0.0)
    assert first["peer_steps"] == 0
    assert rows[-1]["bundle_mel_distance"] > 2 * rows[-1]["mel_distance"]
    assert [row["bundle_si_sdr_db"] < row["si_sdr_db"] for row in rows] == [True] * 3


def test_a_bundle_of_another_bitrate_is_refused(folder, bundle):
    with pytest.raises(SystemExit, match="other frames, levels or entries"):
        list(codec.quality(folder, "nano", bundle))


def test_a_folder_without_music_is_told(tmp_path, recipe):
    with pytest.raises(SystemExit, match="no music"):
        list(codec.quality(tmp_path, recipe))
