"""Ids from pretrained models: the published formats, the layer that was asked for, and frames at their own time."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2FeatureExtractor
from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import Wav2Vec2ConformerEncoder

from v2meow import assets, weights
from v2meow.assets import Asset, AssetFile, store
from v2meow.config import PretrainedIdsConfig, RecipeError
from v2meow.encoders.audio import describe
from v2meow.encoders.semantic import load_semantic, new_semantic
from v2meow.encoders.semantic.frames import centred, change_rate
from v2meow.encoders.semantic.musicfm import MusicFM
from v2meow.encoders.semantic.pretrained import PretrainedFrames
from v2meow.encoders.semantic.speech import Mert, W2vBert
from v2meow.weights import ModelError

CPU = torch.device("cpu")
SAVE = {
    "w2v-bert": tiny_models.save_w2v_bert,
    "mert": tiny_models.save_mert,
    "musicfm": tiny_models.save_musicfm,
}
MODELS: dict[str, Any] = {"w2v-bert": W2vBert, "mert": Mert, "musicfm": MusicFM}
KINDS = tuple(SAVE)


def _config(kind: Any, **changes: Any) -> PretrainedIdsConfig:
    values = {"asset": "tiny", "layer": 2, "rate": 25, "clusters": 4, "sample_frames": 100, "bfloat16": False}
    return PretrainedIdsConfig(kind=kind, **(values | changes))


def _noise(samples: int, batch: int = 2) -> torch.Tensor:
    return 0.1 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    made = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for kind, folder in made.items():
        SAVE[kind](folder)
    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("sample_rate", "rate"), [(16_000, 25), (24_000, 50), (32_000, 20)])
def test_frames_have_the_rate_that_was_asked_for(folders, kind, sample_rate, rate):
    frames = PretrainedFrames(_config(kind, rate=rate), sample_rate, folders[kind], CPU)
    found = frames(_noise(2 * sample_rate))
    assert found.shape == (2, 2 * rate, tiny_models.WIDTH) == (2, 2 * rate, frames.width)
    assert found.isfinite().all() and found.dtype == torch.float32
    assert frames(_noise(sample_rate // rate)).shape[1] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_its_rows(folders, kind):
    """Ids that depend on what else was in the batch would differ between training and generation."""
    frames, sound = PretrainedFrames(_config(kind), 16_000, folders[kind], CPU), _noise(16_000, batch=3)
    alone = torch.cat([frames(row[None]) for row in sound])
    torch.testing.assert_close(frames(sound), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_sees_just_what_its_hop_and_reach_say(folders, kind):
    """Frames are put to their time by these two numbers, which are derived from the published configuration."""
    model = MODELS[kind](folders[kind], 1, CPU)
    for frames in (5, 12):
        exact = (frames - 1) * model.hop + model.reach
        assert model(_noise(exact)).shape[1] == frames
        if kind != "musicfm":  # its convolutions are padded: a part of a frame is a frame
            assert model(_noise(exact - 1)).shape[1] == frames - 1
            assert model(_noise(exact + model.hop - 1)).shape[1] == frames


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_near(folders, kind):
    sound = _noise(16_000)
    full, half = (PretrainedFrames(_config(kind, bfloat16=b), 16_000, folders[kind], CPU)(sound) for b in (False, True))
    difference = (half - full).norm() / full.norm()
    assert 0 < difference < 0.05 and half.dtype == torch.float32


@pytest.mark.parametrize("layer", [1, tiny_models.LAYERS])
def test_w2v_bert_gives_the_library_s_hidden_state(tmp_path, layer):
    """From the waveform by the published feature extractor to the hidden state that transformers itself gives."""
    reference, sound = tiny_models.save_w2v_bert(tmp_path), _noise(16_000)
    made = SeamlessM4TFeatureExtractor.from_pretrained(tmp_path)(
        list(sound.numpy()), sampling_rate=16_000, return_tensors="pt"
    )
    model = W2vBert(tmp_path, layer, CPU)
    torch.testing.assert_close(model.mel(sound), made["input_features"], rtol=1e-3, atol=2e-3)
    with torch.no_grad():
        expected = reference(**made, output_hidden_states=True).hidden_states[layer]
        torch.testing.assert_close(model(sound), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("stable", [False, True])
@pytest.mark.parametrize("layer", [1, tiny_models.LAYERS])
def test_mert_gives_hubert_s_hidden_state(tmp_path, layer, stable):
    """Also where a norm follows the last layer: it must not be applied to an earlier one."""
    reference, sound = tiny_models.save_mert(tmp_path, stable=stable), _noise(24_000)
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path)
    given = extractor(list(sound.numpy()), sampling_rate=24_000, return_tensors="pt").input_values
    with torch.no_grad():
        made = reference(given, output_hidden_states=True)
        expected = made.last_hidden_state if layer == tiny_models.LAYERS else made.hidden_states[layer]
        torch.testing.assert_close(Mert(tmp_path, layer, CPU)(sound), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("option", ["feature_extractor_cqt", "deepnorm"])
def test_a_mert_that_hubert_cannot_stand_for_is_refused(tmp_path, option):
    """Its weights would load, and its features would mean nothing."""
    tiny_models.save_mert(tmp_path, **{option: True})
    with pytest.raises(ModelError, match=rf"config\.json: {option} is set"):
        Mert(tmp_path, 1, CPU)


def test_musicfm_goes_the_published_way(tmp_path):
    """The authors' forward pass written out once more: mel in dB, standardised, two convolutions, the conformer."""
    saved = tiny_models.save_musicfm(tmp_path)
    model, sound = MusicFM(tmp_path, 2, CPU), _noise(24_000)
    conformer = Wav2Vec2ConformerEncoder(model._network.conformer.config)
    own = {name.removeprefix("conformer."): value for name, value in saved.items() if name.startswith("conformer.")}
    missing, unexpected = conformer.load_state_dict(
        {name: value for name, value in own.items() if "pos_conv_embed" not in name}, strict=False
    )
    assert not unexpected and all("pos_conv_embed" in name for name in missing)
    states = []
    conformer.layers[1].register_forward_hook(lambda *given: states.append(given[2]))
    with torch.no_grad():
        padded = torch.nn.functional.pad(sound, (480, 480))
        mel = (10 * torch.log10(model._mel(padded).clamp(min=1e-10)) - 6.77) / 18.4
        subsampled = model._network.conv(mel[..., :-1])
        conformer.eval()(subsampled)
        hidden = states[0][0] if isinstance(states[0], tuple) else states[0]
        torch.testing.assert_close(model(sound), hidden[:, 1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", [0, tiny_models.LAYERS + 1])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_that_is_not_there_is_told_by_the_key(folders, kind, layer):
    with pytest.raises(RecipeError, match=rf"semantic_ids\.layer: .* has layers 1 to 3, not {layer}"):
        PretrainedFrames(_config(kind, layer=layer), 16_000, folders[kind], CPU)


@pytest.mark.parametrize(
    ("kind", "file"),
    [("w2v-bert", "model.safetensors"), ("mert", "pytorch_model.bin"), ("musicfm", "pretrained_msd.pt")],
)
def test_damaged_weights_are_named(folders, tmp_path, kind, file):
    shutil.copytree(folders[kind], tmp_path, dirs_exist_ok=True)
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=rf"{file} is damaged, or not"):
        PretrainedFrames(_config(kind), 16_000, tmp_path, CPU)


def test_another_kind_of_model_is_named(folders):
    """Loaded all the same, it would have random weights wherever the names differ."""
    with pytest.raises(
        ModelError, match=r"config\.json describes a model of type 'mert_model'; expected wav2vec2-bert"
    ):
        PretrainedFrames(_config("w2v-bert"), 16_000, folders["mert"], CPU)
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged, or not a checkpoint of MusicFM"):
        PretrainedFrames(_config("musicfm"), 16_000, folders["w2v-bert"], CPU)


def test_weights_that_lack_a_layer_are_refused(tmp_path):
    tiny_models.save_mert(tmp_path)
    file = tmp_path / "pytorch_model.bin"
    held = {name: value for name, value in torch.load(file, weights_only=True).items() if "layers.1." not in name}
    torch.save(held, file)
    with pytest.raises(
        ModelError, match=r"pytorch_model\.bin lacks \d+ weights of a HubertModel, such as encoder\.lay"
    ):
        Mert(tmp_path, 1, CPU)


def test_a_change_of_rate_keeps_the_time():
    """Where a frame's value is its own time, a new frame's is the middle of the time that it describes."""
    for own_rate, rate in ((50, 25), (75, 50), (25, 25), (25, 50), (75, 20)):
        count = 2 * rate
        own = (torch.arange(2 * own_rate, dtype=torch.float64) + 0.5) / own_rate
        found = change_rate(own[None, :, None], own_rate, rate, count)[0, :, 0]
        middle = (torch.arange(count, dtype=torch.float64) + 0.5) / rate
        tolerance = 0 if own_rate % rate == 0 else 0.5 / own_rate
        torch.testing.assert_close(found, middle, rtol=0, atol=tolerance + 1e-9)


def test_what_a_model_is_given_is_centred():
    ramp = torch.arange(320 * 20, dtype=torch.float32)[None]
    for hop, reach in ((320, 560), (320, 400), (960, 960)):
        frames = ramp.shape[1] // hop
        parts = centred(ramp, frames, hop, reach).unfold(1, reach, hop)
        assert parts.shape == (1, frames, reach)
        middle = parts[0, 1:-1].mean(1) + 0.5
        torch.testing.assert_close(middle, (torch.arange(1, frames - 1) + 0.5) * hop)


def test_ids_of_a_workspace_hold_to_their_asset(tmp_path, monkeypatch):
    """The centroids mean nothing for other weights, and the weights themselves stay in the store."""
    monkeypatch.setenv("V2MEOW_ASSETS", str(tmp_path / "store"))
    place, folder = tmp_path / "store" / "tiny", tmp_path / "semantic"
    tiny_models.save_musicfm(place)
    files = {path.name: store.verified(path) for path in place.iterdir()}
    asset = Asset(
        name="tiny", about="", licence="MIT", commercial=True, files=tuple(AssetFile(name=name) for name in files)
    )
    store.remember(asset, files)
    ids, sound = new_semantic(_config("musicfm"), 16_000), _noise(32_000)
    ids.fit([ids.features(sound).flatten(0, 1)], 0)
    description = describe(ids.config, 16_000)
    assert description["asset"] == assets.fingerprint("tiny")
    weights.save(folder, ids, description, {})
    assert (folder / "model.safetensors").stat().st_size < 2000
    assert torch.equal(load_semantic(folder).encode(sound), ids.encode(sound))
    weights.save(folder, ids, description | {"asset": description["asset"] | {"msd_stats.json": "0"}}, {})
    with pytest.raises(ModelError, match=r"config\.json: .* other files of the asset tiny .*\(msd_stats\.json\)"):
        load_semantic(folder)
