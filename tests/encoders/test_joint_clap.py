"""CLAP: the published format, music of any length, texts of any length."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from torch.nn import functional as F
from transformers import ClapFeatureExtractor, ClapModel, RobertaTokenizer

from v2meow.config import ClapConfig
from v2meow.encoders.joint.clap import Clap
from v2meow.weights import ModelError

CPU, RATE = torch.device("cpu"), 16_000


def _config(batch: int = 2, bfloat16: bool = False) -> ClapConfig:
    return ClapConfig(kind="clap", asset="tiny", batch=batch, bfloat16=bfloat16)


def _noise(seconds: float, rate: int = RATE) -> torch.Tensor:
    return 0.1 * torch.randn(2, round(seconds * rate), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("clap")
    tiny_models.save_clap(made)
    return made


@pytest.fixture(scope="module")
def clap(folder) -> Clap:
    return Clap(_config(), RATE, folder, CPU)


def test_vectors_are_those_of_the_library(folder):
    """Without resampling, and with one window, there is nothing but CLAP itself."""
    model: Any = ClapModel.from_pretrained(folder).eval()
    texts, sound = ["a bell", "slow"], _noise(1.0, 48_000)
    extractor, tokenizer = ClapFeatureExtractor.from_pretrained(folder), RobertaTokenizer.from_pretrained(folder)
    made = extractor(list(sound.numpy()), sampling_rate=48_000, return_tensors="pt")
    with torch.no_grad():
        heard = model.get_audio_features(**made).pooler_output
        read = model.get_text_features(**tokenizer(texts, padding=True, return_tensors="pt")).pooler_output
    clap = Clap(_config(), 48_000, folder, CPU)
    assert clap.width == 6
    torch.testing.assert_close(clap.embed_audio(sound), heard, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(clap.embed_text(texts), read, rtol=1e-4, atol=1e-5)


def test_longer_music_is_the_mean_over_windows_that_cover_it(folder):
    clap, sound = Clap(_config(), 48_000, folder, CPU), _noise(2.2, 48_000)
    pieces = [clap.embed_audio(sound[:, start : start + 48_000]) for start in (0, 28_800, 57_600)]
    expected = F.normalize(torch.stack(pieces).mean(0), dim=-1)
    torch.testing.assert_close(clap.embed_audio(sound), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.5])
def test_music_of_any_length_has_a_unit_vector(clap, seconds):
    found = clap.embed_audio(_noise(seconds))
    assert found.shape == (2, 6) and found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize("text", ["", "музыка 音楽", "slow " * 1000])
def test_any_text_has_a_vector(clap, text):
    """Prompts come from strangers; one that is longer than the model's positions would be an index error."""
    assert clap.embed_text(["bell", text, "flute"]).isfinite().all()


def test_how_many_go_through_at_once_does_not_matter(folder, clap):
    sound, texts = _noise(2.5), ["bell", "a slow flute", "loud"]
    other = Clap(_config(batch=5), RATE, folder, CPU)
    torch.testing.assert_close(other.embed_audio(sound), clap.embed_audio(sound), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other.embed_text(texts), clap.embed_text(texts), rtol=1e-4, atol=1e-5)


def test_a_model_with_feature_fusion_hears_the_same_twice(tmp_path):
    """The library's extractor picks a row at random that it calls cut."""
    tiny_models.save_clap(tmp_path, fusion=True)
    clap, sound = Clap(_config(batch=8), RATE, tmp_path, CPU), _noise(2.5)
    first = clap.embed_audio(sound)
    assert all(torch.equal(clap.embed_audio(sound), first) for _ in range(4))


def test_bfloat16_is_near(folder, clap):
    half = Clap(_config(bfloat16=True), RATE, folder, CPU)
    for full, found in (
        (clap.embed_audio(_noise(1.0)), half.embed_audio(_noise(1.0))),
        (clap.embed_text(["a bell"]), half.embed_text(["a bell"])),
    ):
        assert 0 < (full - found).norm(dim=1).max() < 0.1 and found.dtype == torch.float32


@pytest.mark.parametrize("file", ["model.safetensors", "preprocessor_config.json", "tokenizer_config.json"])
def test_damaged_files_are_named(folder, tmp_path, file):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=rf"{file} is damaged, or not"):
        Clap(_config(), RATE, tmp_path, CPU)


def test_another_kind_of_model_is_named(folder, tmp_path):
    tiny_models.save_mert(tmp_path)
    for file in folder.glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    shutil.copy(folder / "preprocessor_config.json", tmp_path)
    with pytest.raises(ModelError, match=r"config\.json describes a model of type 'mert_model'; expected clap"):
        Clap(_config(), RATE, tmp_path, CPU)
