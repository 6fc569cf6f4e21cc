"""The codec: a perfect transform around a quantizer, with lengths that never drift."""

import json
import math
from dataclasses import asdict, replace
from itertools import pairwise

import pytest
import tiny
import torch

from v2meow import weights
from v2meow.config import LappedCodecConfig
from v2meow.encoders.codec import LappedCodec, load_codec
from v2meow.weights import ModelError

HOP = 320


def _config(**changes) -> LappedCodecConfig:
    config = tiny.recipe().codec
    assert isinstance(config, LappedCodecConfig)
    return replace(config, **changes)


@pytest.fixture(scope="module")
def noise() -> torch.Tensor:
    return 0.2 * torch.randn(2, 20 * HOP, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def codec() -> LappedCodec:
    torch.manual_seed(0)
    return LappedCodec(_config()).eval()


@pytest.mark.parametrize("hop", [64, 320])
@pytest.mark.parametrize("companding", [0.4, 1.0])
def test_the_transform_restores_the_signal_before_anything_is_trained(hop, companding):
    """All loss then is the quantizer's; the last hop lacks the frame that would overlap it."""
    codec = LappedCodec(_config(hop=hop, companding=companding))
    waveform = torch.randn(2, 20 * hop, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    spectrum = codec.spectrum(waveform)
    assert spectrum.shape == (2, hop, 20)
    restored = codec.waveform(codec.decoder(codec.encoder(spectrum)))  # the blocks begin as the identity
    assert restored.shape == waveform.shape
    torch.testing.assert_close(restored[:, :-hop], waveform[:, :-hop], atol=1e-5, rtol=0)


def test_the_transform_keeps_energy():
    """Orthonormal: errors of coefficients are errors of samples, so quantizing weighs them rightly."""
    codec = LappedCodec(_config(companding=1.0))
    waveform = torch.randn(1, 50 * HOP, generator=torch.Generator().manual_seed(0))
    waveform[:, -HOP:] = 0
    assert codec.spectrum(waveform).square().sum().item() == pytest.approx(waveform.square().sum().item(), rel=1e-3)


@pytest.mark.parametrize("frames", [1, 2, 7, 50])
def test_frames_and_samples_convert_exactly(codec, frames):
    """A frame more or less a window adds up to a second over a song."""
    codes = codec.encode(torch.zeros(3, frames * HOP))
    assert (codes.shape, codes.dtype) == ((3, 4, frames), torch.int64)
    assert codec.decode(codes).shape == (3, frames * HOP)
    assert codec.decode(codes[:, :2]).shape == (3, frames * HOP)  # the first levels alone


def test_part_of_a_frame_is_refused(codec):
    with pytest.raises(AssertionError):
        codec.encode(torch.zeros(1, 2 * HOP + 1))


def _frames(codec, noise):
    return codec.spectrum(noise).transpose(1, 2).flatten(0, 1).detach()


def _quantization_error(codec, noise) -> list[float]:
    """Mean squared error of the spectrum after 1, 2, … levels."""
    spectrum, codes = codec.spectrum(noise), codec.encode(noise)
    quantized = [codec.quantizer.decode(codes[:, :levels].transpose(0, 1)) for levels in range(1, 5)]
    return [(each - spectrum).square().mean().item() for each in quantized]


def test_residual_k_means_beats_random_codebooks_and_each_level_adds(noise):
    """A codebook that fits the signal instead of what is left of it adds nothing."""
    torch.manual_seed(0)
    codec = LappedCodec(_config()).eval()
    before = _quantization_error(codec, noise)
    codec.initialise_codebooks(_frames(codec, noise), torch.Generator().manual_seed(0))
    after = _quantization_error(codec, noise)
    assert after[-1] < 0.9 * before[-1]
    assert after == sorted(after, reverse=True)
    assert after[-1] < 0.8 * after[0]


def test_as_many_entries_as_frames_quantize_them_without_error():
    """The limit of k-means: every frame its own centroid, on the levels taken together."""
    torch.manual_seed(0)
    codec = LappedCodec(_config(bins=64, levels=4)).eval()
    tone = 0.3 * torch.sin(2 * math.pi * 440 * torch.arange(16 * HOP) / 16_000)[None]
    codec.initialise_codebooks(_frames(codec, tone), torch.Generator().manual_seed(0))
    assert _quantization_error(codec, tone)[-1] < 1e-3


def test_more_entries_than_different_frames_stay_finite():
    """Digital silence and repeated notes leave clusters empty."""
    codec = LappedCodec(_config()).eval()
    codec.initialise_codebooks(torch.zeros(5, HOP), torch.Generator().manual_seed(0))
    assert codec.decode(codec.encode(torch.zeros(1, 4 * HOP))).isfinite().all()
    assert all(tensor.isfinite().all() for tensor in codec.state_dict().values())


def test_codes_do_not_depend_on_the_rest_of_the_batch_or_on_earlier_calls(codec, noise):
    """Moving averages that went on in use would change the meaning of codes already stored."""
    first = codec.encode(noise)
    assert torch.equal(codec.encode(noise[:1]), first[:1])
    assert torch.equal(codec.encode(noise), first)


def _saved(codec, folder):
    weights.save(folder, codec, {"config": asdict(codec.config), "sample_rate": codec.config.sample_rate}, {})
    return folder


def test_a_saved_codec_gives_the_same_codes(codec, noise, tmp_path):
    loaded = load_codec(_saved(codec, tmp_path / "codec"))
    assert loaded.config == codec.config
    assert torch.equal(loaded.encode(noise), codec.encode(noise))
    assert torch.equal(loaded.decode(loaded.encode(noise)), codec.decode(codec.encode(noise)))


def test_a_folder_that_cannot_be_used_is_one_error_that_names_the_file(codec, tmp_path):
    folder = _saved(codec, tmp_path / "codec")
    data = (folder / "model.safetensors").read_bytes()
    for damaged in (data[:-100], b"", b"<html>"):
        (folder / "model.safetensors").write_bytes(damaged)
        with pytest.raises(ModelError, match=r"model\.safetensors"):
            load_codec(folder)
    other = LappedCodec(_config(bins=32))
    weights.save(folder, other, {"config": asdict(codec.config), "sample_rate": 16_000}, {})
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_codec(folder)
    for config in ({}, {"config": asdict(codec.config) | {"kind": "mp3"}, "sample_rate": 16_000}):
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match=r"config\.json"):
            load_codec(folder)


def _busy_codec() -> LappedCodec:
    """One whose blocks do something, as after training."""
    torch.manual_seed(0)
    codec = LappedCodec(_config()).eval()
    for parameter in codec.decoder.parameters():
        parameter.data.normal_(std=0.05)
    return codec


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("grid", [(0, 50, 100, 120), (0, 1, 2, 120), (37, 90)])
def test_parts_are_those_of_the_whole_and_need_nothing_beyond_their_context(grid, folded):
    """Blocks that do something, so that a context too short would show."""
    codec = _busy_codec()
    if folded:
        codec.fold()
    codes = torch.randint(0, 16, (1, 4, 120))
    whole, after = codec.decode(codes), codec.context[1]
    for first, end in pairwise(grid):
        known = codes.clone()
        known[..., end + after :] = -1
        part = codec.decode_part(known, first, end)
        torch.testing.assert_close(part, whole[:, first * HOP : end * HOP], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("levels", [1, 4])
def test_a_decoder_that_was_laid_out_gives_what_the_modules_give(levels):
    """Of all frames, the first and the last among them, and of each clip of a batch by itself."""
    codec = _busy_codec()
    codec.fold()
    codes = torch.randint(0, 16, (3, levels, 30))
    torch.testing.assert_close(codec.decode_part(codes, 0, 30), codec.decode(codes), atol=1e-5, rtol=1e-4)


def test_a_loaded_codec_is_laid_out(codec, tmp_path, monkeypatch):
    """Else parts would be decoded the slow way, and nobody would notice."""
    loaded = load_codec(_saved(codec, tmp_path / "codec"))
    monkeypatch.setattr(loaded, "decode", None)
    assert loaded.decode_part(torch.zeros(1, 4, 10, dtype=torch.int64), 0, 10).shape == (1, 10 * HOP)
