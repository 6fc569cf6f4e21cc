"""Tokens of VQ image models: each model that transformers has, alone or inside the whole that it was published in."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from pretrained import pictures
from safetensors.torch import load_file, save_file

from v2meow.config import VisualTokensConfig
from v2meow.encoders.visual.tokens import VisualTokens
from v2meow.weights import ModelError

CPU = torch.device("cpu")
CONFIG = VisualTokensConfig(kind="vq-tokens", asset="vq", rate=1.0, size=32, grid=2, batch=2, bfloat16=False)
_COMMON: dict[str, Any] = {
    "embed_dim": 8,
    "latent_channels": 8,
    "base_channels": 32,
    "channel_multiplier": [1, 1, 1],
    "num_res_blocks": 1,
}
_CHAMELEON: dict[str, Any] = {"num_embeddings": 32, "resolution": 32}
_JANUS: dict[str, Any] = {"num_embeddings": 32, "num_patches": 8}
_EMU3: dict[str, Any] = {"codebook_size": 32, "attn_resolutions": [2], "hidden_size": 32}


def _made(kind: str) -> Any:
    """A random model, the same each time."""
    torch.manual_seed(0)
    if kind == "chameleon":
        model: Any = transformers.ChameleonVQVAE(transformers.ChameleonVQVAEConfig(**_COMMON, **_CHAMELEON))
    elif kind == "janus":
        model = transformers.JanusVQVAE(transformers.JanusVQVAEConfig(**_COMMON, **_JANUS))
    else:
        model = transformers.Emu3VQVAE(transformers.Emu3VQVAEConfig(**_COMMON, **_EMU3))
    return model.eval()


@pytest.fixture(params=["chameleon", "janus", "emu3"])
def folder(request, tmp_path):
    _made(request.param).save_pretrained(tmp_path)
    return tmp_path


def test_features_are_codebook_vectors_over_the_raster(folder):
    """A raster as fine as the tokens shows each token's own vector, where it is in the picture."""
    frames = pictures(3, 32, 32)
    extractor = VisualTokens(replace(CONFIG, grid=8), folder, CPU)
    ids = torch.cat([extractor.tokens(frames[:2]), extractor.tokens(frames[2:])])
    assert ids.shape == (3, 8, 8) and len(ids.unique()) > 4
    codebook = load_file(folder / "model.safetensors")["quantize.embedding.weight"]
    if "janus" in json.loads((folder / "config.json").read_text())["model_type"]:
        codebook = codebook / codebook.norm(dim=1, keepdim=True)
    expected = codebook[ids].permute(0, 3, 1, 2).flatten(1).numpy()
    found = extractor(frames)
    assert extractor.width == 512 and (found.shape, found.dtype) == ((3, 512), np.float32)
    assert np.abs(found - expected).max() < 1e-6


def test_a_coarser_raster_is_the_average_of_the_finer(folder):
    frames = pictures(3, 32, 32)
    fine, coarse = (VisualTokens(replace(CONFIG, grid=grid), folder, CPU)(frames) for grid in (8, 2))
    assert coarse.shape == (3, 32)
    assert np.abs(fine.reshape(3, 8, 2, 4, 2, 4).mean((3, 5)).reshape(3, 32) - coarse).max() < 1e-6


def test_tokens_are_those_of_the_model_itself(folder):
    """Normalised otherwise, or quantized in bfloat16, a picture has other tokens than the ones it was trained on."""
    extractor, frames = VisualTokens(CONFIG, folder, CPU), pictures(2, 32, 32)
    model: Any = _made(json.loads((folder / "config.json").read_text())["model_type"].split("_")[0])
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2) / 127.5 - 1
    sizes: dict[str, Any] = {"image_sizes": [(32, 32)] * 2} if isinstance(model, transformers.Emu3VQVAE) else {}
    with torch.inference_mode():
        expected: Any = model.encode(pixels, **sizes).image_tokens
    expected = torch.stack(expected) if isinstance(expected, list) else expected
    assert torch.equal(extractor.tokens(frames).flatten(), expected.flatten())
    near = VisualTokens(replace(CONFIG, bfloat16=True), folder, CPU).tokens(frames)
    assert (near.flatten() == expected.flatten()).float().mean() > 0.8


@pytest.mark.parametrize("prefix", ["model.vqmodel.", "vqmodel."])
def test_the_tokenizer_inside_a_whole_model_is_found(folder, tmp_path, prefix):
    """Nobody publishes it alone; the language model around it is neither needed nor read."""
    whole = tmp_path / "whole"
    whole.mkdir()
    parts = {prefix + name: value for name, value in load_file(folder / "model.safetensors").items()}
    save_file(parts | {"model.embed_tokens.weight": torch.zeros(4, 4)}, whole / "model.safetensors", {"format": "pt"})
    alone = json.loads((folder / "config.json").read_text())
    model_type = alone["model_type"].split("_")[0]
    (whole / "config.json").write_text(json.dumps({"model_type": model_type, "vq_config": alone}))
    frames = pictures(2, 32, 32)
    assert (VisualTokens(CONFIG, whole, CPU)(frames) == VisualTokens(CONFIG, folder, CPU)(frames)).all()


def test_a_tensor_that_is_missing_is_told(folder):
    """transformers would leave it at random, and only warn."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    del weights["encoder.conv_in.weight"]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ModelError, match=r"1 tensors are missing, such as encoder\.conv_in\.weight"):
        VisualTokens(CONFIG, folder, CPU)


@pytest.mark.parametrize("harm", ["truncated", "another model", "nothing"])
def test_a_folder_that_cannot_be_used_is_one_line_that_names_it(folder, harm):
    if harm == "truncated":
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
    elif harm == "another model":
        (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    else:
        for file in folder.iterdir():
            file.unlink()
    with pytest.raises(ModelError, match=folder.name) as caught:
        VisualTokens(CONFIG, folder, CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("size", "grid"), [(34, 2), (32, 9)])
def test_a_raster_that_the_tokens_do_not_fill_is_told(folder, size, grid):
    with pytest.raises(ModelError, match=f"a token is a square of 4 pixels; .* not {size}"):
        VisualTokens(replace(CONFIG, size=size, grid=grid), folder, CPU)
