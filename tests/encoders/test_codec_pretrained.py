"""EnCodec as published, by tiny random state dicts of the same form: what the package computes, whole or in parts."""

from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from encodec.model import EncodecModel
from torch import nn

from v2meow import weights
from v2meow.config import EncodecConfig
from v2meow.encoders.codec import load_codec, pretrained
from v2meow.encoders.codec.folded import FoldedUpsampling, fold
from v2meow.encoders.codec.pretrained import CHECKPOINTS, EncodecParts, load_published
from v2meow.files import sha256, write_json
from v2meow.weights import ModelError

HOP = 320
MONO = EncodecConfig(kind="encodec", asset="tiny", sample_rate=24_000, bandwidth=3.0)
STEREO = EncodecConfig(kind="encodec", asset="tiny", sample_rate=48_000, bandwidth=6.0)


def _parts(config: EncodecConfig) -> EncodecParts:
    """Few and narrow layers, with weights large enough that a signal comes through them."""
    torch.manual_seed(0)
    parts = EncodecParts(config.sample_rate, filters=4, width=16, levels=6, bins=1024)
    layers: Any = parts.quantizer.vq.layers
    for layer in layers:
        layer._codebook.embed.copy_(torch.randn(1024, 16))
        layer._codebook.inited.fill_(1)
    for name, parameter in parts.named_parameters():
        if name.endswith(("weight_g", "weight")) and parameter.ndim == 3:
            parameter.data.mul_(2.0)
    return parts.eval()


def _package(config: EncodecConfig) -> EncodecModel:
    """The package's own model of the same weights."""
    parts, stereo = _parts(config), config.sample_rate == 48_000
    model = EncodecModel(
        parts.encoder,
        parts.decoder,
        parts.quantizer,
        target_bandwidths=[config.bandwidth],
        sample_rate=config.sample_rate,
        channels=1 + stereo,
        normalize=stereo,
        segment=1.0 if stereo else None,
    )
    model.set_target_bandwidth(config.bandwidth)
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An asset's folder with both checkpoints."""
    folder = tmp_path_factory.mktemp("asset")
    for config in (MONO, STEREO):
        torch.save(_parts(config).state_dict(), folder / CHECKPOINTS[config.sample_rate])
    return folder


@pytest.fixture(scope="module")
def mono(folder):
    return load_published(MONO, folder)


@pytest.fixture(scope="module")
def stereo(folder):
    return load_published(STEREO, folder)


def _noise(frames: int) -> torch.Tensor:
    return 0.1 * torch.randn(2, frames * HOP, generator=torch.Generator().manual_seed(0))


def _codes(levels: int, frames: int) -> torch.Tensor:
    return torch.randint(0, 1024, (2, levels, frames), generator=torch.Generator().manual_seed(0))


def test_the_published_names_and_widths_are_those_of_the_package():
    """A state dict that only our own classes can read would be of no use."""
    for config, model in ((MONO, EncodecModel.encodec_model_24khz), (STEREO, EncodecModel.encodec_model_48khz)):
        with torch.device("meta"):
            theirs = {name: tensor.shape for name, tensor in model(pretrained=False).state_dict().items()}
            levels = 32 if config is MONO else 16
            ours = EncodecParts(config.sample_rate, filters=32, width=128, levels=levels, bins=1024).state_dict()
        assert {name: tensor.shape for name, tensor in ours.items()} == theirs


@pytest.mark.parametrize("frames", [1, 7, 40])
def test_mono_gives_the_packages_codes_and_sound(mono, frames):
    model, waveform = _package(MONO), _noise(frames)
    with torch.no_grad():
        ((codes, _),) = model.encode(waveform[:, None])
        sound = model.decode([(codes, None)])[:, 0]
    assert torch.equal(mono.encode(waveform), codes) and codes.shape == (2, MONO.levels, frames)
    assert sound.std() > 0.01
    torch.testing.assert_close(mono.decode(codes), sound, atol=1e-5 * sound.abs().max().item(), rtol=1e-4)


def test_a_second_of_stereo_is_the_packages_but_for_its_level(stereo):
    """One segment has no seams: the rest must be what the package does with two equal channels."""
    model, waveform = _package(STEREO), _noise(150)
    with torch.no_grad():
        (codes, _), *_ = model.encode(waveform[:, None].expand(-1, 2, -1))
        sound = model.decode([(codes, torch.full((2, 1), 0.1))]).mean(1)
    assert torch.equal(stereo.encode(waveform), codes) and codes.shape == (2, STEREO.levels, 150)
    torch.testing.assert_close(stereo.decode(codes), sound, atol=1e-5 * sound.abs().max().item(), rtol=1e-4)


@pytest.mark.parametrize("frames", [1, 149, 150, 152, 375])
def test_stereo_frames_and_samples_convert_exactly(stereo, frames):
    """The package's overlap makes 151.5 frames of a second."""
    codes = stereo.encode(_noise(frames))
    assert (codes.shape, codes.dtype) == ((2, STEREO.levels, frames), torch.int64)
    assert stereo.decode(codes).shape == (2, frames * HOP)


def test_no_level_is_hidden_in_the_codes_of_stereo(stereo):
    """Each second is normalized: loud and quiet ones give the same codes, and sound equally loud."""
    waveform = _noise(300)
    assert torch.equal(stereo.encode(waveform), stereo.encode(0.05 * waveform))
    second = waveform.clone()
    second[:, 48_000:] *= 0.05
    assert torch.equal(stereo.encode(second), stereo.encode(waveform))


def test_a_second_fades_into_the_next(stereo):
    """Seconds decoded apart end and begin anywhere: joined without a fade they would click."""
    codes, seam = _codes(STEREO.levels, 300), 150 * HOP

    def decoded(part: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return 0.1 * stereo.decoder(stereo.quantizer.decode(part.transpose(0, 1))).mean(1)

    before, after = decoded(codes[..., :152])[:, seam:], decoded(codes[..., 150:])[:, : 2 * HOP]
    faded = stereo.decode(codes)[:, seam : seam + 2 * HOP]
    assert (before - after).abs().mean() > 0.1 * after.abs().mean()
    torch.testing.assert_close(faded[:, 0], before[:, 0], atol=2e-3 * after.abs().max().item(), rtol=0)
    torch.testing.assert_close(
        faded[:, HOP], (before + after)[:, HOP] / 2, atol=2e-3 * after.abs().max().item(), rtol=0
    )
    torch.testing.assert_close(faded[:, -1], after[:, -1], atol=2e-3 * after.abs().max().item(), rtol=0)


@pytest.mark.parametrize("grid", [(0, 75, 150, 190), (0, 8, 9, 30, 190), (0, 190), (70, 120), (3, 5), (0, 3)])
def test_parts_of_mono_are_those_of_the_whole(folder, grid):
    """In order, where the recurrent state is carried, or from anywhere, where it is computed anew."""
    mono, codes = load_published(MONO, folder), _codes(MONO.levels, 190)
    whole = mono.decode(codes)
    for first, end in pairwise(grid):
        part = mono.decode_part(codes, first, end)
        torch.testing.assert_close(part, whole[:, first * HOP : end * HOP], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("grid", [(0, 150, 300, 380), (0, 380), (150, 300), (100, 170, 380)])
def test_parts_of_stereo_are_those_of_the_whole(folder, grid):
    stereo, codes = load_published(STEREO, folder), _codes(STEREO.levels, 380)
    whole = stereo.decode(codes)
    for first, end in pairwise(grid):
        part = stereo.decode_part(codes, first, end)
        torch.testing.assert_close(part, whole[:, first * HOP : end * HOP], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("config", [MONO, STEREO], ids=["mono", "stereo"])
def test_a_part_needs_nothing_beyond_its_context(folder, config):
    """Streamed codes end where they are known: what stands behind must not be read."""
    codec, codes, rate = load_published(config, folder), _codes(config.levels, 380), config.rate
    whole, after = codec.decode(codes), codec.context[1]
    for first in range(0, 380 - rate, rate):
        known = codes.clone()
        known[..., first + rate + after :] = -1
        part = codec.decode_part(known, first, first + rate)
        torch.testing.assert_close(part, whole[:, first * HOP : (first + rate) * HOP], atol=1e-5, rtol=1e-4)


def test_carried_states_of_other_pieces_are_not_taken(folder):
    """Two pieces that are streamed in turns have different pasts."""
    mono, one = load_published(MONO, folder), _codes(MONO.levels, 150)
    other = one.roll(1, dims=2)
    for codes in (one, other):
        mono.decode_part(codes, 0, 75)
    for codes in (one, other):
        torch.testing.assert_close(
            mono.decode_part(codes, 75, 150), mono.decode(codes)[:, 75 * HOP :], atol=1e-5, rtol=1e-4
        )


def test_a_part_costs_no_more_than_its_own_frames(folder, monkeypatch):
    """Streamed from the start each time, a piece of a minute would cost half an hour of recurrent steps."""
    mono, codes, steps = load_published(MONO, folder), _codes(MONO.levels, 190), []
    forward = nn.LSTM.forward
    monkeypatch.setattr(nn.LSTM, "forward", lambda self, x, *rest: steps.append(len(x)) or forward(self, x, *rest))
    for first, end in pairwise((0, 75, 150, 190)):
        mono.decode_part(codes, first, end)
    assert steps == [75, 75, 40]


def test_folded_layers_compute_what_the_packages_do():
    parts = _parts(MONO)
    features = torch.randn(2, 64, 11, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = parts.decoder.model[2:](features)
        fold(parts)
        assert not any("weight_g" in name for name in parts.state_dict())
        torch.testing.assert_close(parts.decoder.model[2:](features), plain)
        torch.testing.assert_close(FoldedUpsampling(parts.decoder)(features), plain[:, 0], atol=1e-5, rtol=1e-4)


def test_the_reach_of_the_folded_layers_is_enough_and_no_more():
    """A frame less and chunks would click; the gradient tells which frames a sample depends on."""
    parts = _parts(MONO)
    fold(parts)
    upsampling = FoldedUpsampling(parts.decoder)
    features = torch.randn(1, 64, 12, generator=torch.Generator().manual_seed(0), requires_grad=True)
    upsampling(features)[0, 8 * HOP].backward()  # the first sample of a frame reaches furthest
    assert features.grad is not None
    reached = features.grad.abs().sum((0, 1)).nonzero().flatten()
    assert (reached.min().item(), reached.max().item()) == (8 - upsampling.before, 8)


def test_bfloat16_changes_the_sound_little_and_the_codes_not_at_all(folder, mono):
    rough, waveform = load_published(replace(MONO, bfloat16=True), folder), _noise(40)
    codes = mono.encode(waveform)
    assert torch.equal(rough.encode(waveform), codes)
    exact = mono.decode(codes)
    assert 0 < (rough.decode(codes) - exact).std() < 0.03 * exact.std()


def _damage(path, how):
    state = torch.load(path, weights_only=True)
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    elif how == "not torch":
        path.write_text("<html>not found</html>")
    elif how == "missing":
        path.unlink()
    elif how == "a list":
        torch.save([1], path)
    elif how == "another model":
        torch.save({"weight": torch.zeros(1)}, path)
    elif how == "wrong size":
        torch.save(state | {"decoder.model.1.lstm.weight_ih_l0": torch.zeros(3, 3)}, path)
    elif how == "too few codebooks":
        torch.save({k: v for k, v in state.items() if not k.startswith("quantizer") or k[20] in "012"}, path)


@pytest.mark.parametrize(
    "how",
    ["truncated", "not torch", "missing", "a list", "another model", "wrong size", "too few codebooks"],
)
def test_a_checkpoint_that_cannot_be_used_is_one_error_that_names_it(tmp_path, how):
    path = tmp_path / CHECKPOINTS[24_000]
    torch.save(_parts(MONO).state_dict(), path)
    load_published(MONO, tmp_path)
    _damage(path, how)
    with pytest.raises(ModelError, match=path.name):
        load_published(MONO, tmp_path)


def test_a_model_folder_names_the_asset_and_refuses_another(folder, tmp_path, monkeypatch):
    """Codes of other weights would be noise; the weights themselves stay in the asset's folder."""
    name = CHECKPOINTS[24_000]
    monkeypatch.setattr("v2meow.assets.folder", lambda asset: folder)
    monkeypatch.setattr("v2meow.assets.fingerprint", lambda asset: {name: sha256(folder / name)})
    saved = {"config": asdict(MONO), "sample_rate": 24_000, "asset": {name: sha256(folder / name)}}
    weights.save(tmp_path / "codec", nn.Module(), saved, {})
    codes = _codes(MONO.levels, 5)
    loaded = load_codec(tmp_path / "codec")
    assert loaded.config == MONO
    torch.testing.assert_close(loaded.decode(codes), pretrained.load_published(MONO, folder).decode(codes))
    write_json(tmp_path / "codec" / "config.json", saved | {"asset": {name: "0" * 64}})
    with pytest.raises(ModelError, match=name):
        load_codec(tmp_path / "codec")
