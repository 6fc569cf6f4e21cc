"""Tiny, randomly initialised models of sound and text, in the formats that their real ones are published in."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    ClapAudioConfig,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapTextConfig,
    HubertConfig,
    HubertModel,
    RobertaTokenizer,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertModel,
    Wav2Vec2ConformerConfig,
    Wav2Vec2FeatureExtractor,
)
from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import Wav2Vec2ConformerEncoder

WIDTH, LAYERS = 32, 3
_SIZES: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}


def save_w2v_bert(folder: Path) -> Wav2Vec2BertModel:
    """As facebook/w2v-bert-2.0, with 8 mel bands."""
    torch.manual_seed(0)
    model = Wav2Vec2BertModel(Wav2Vec2BertConfig(**_SIZES, feature_projection_input_dim=16))
    model.save_pretrained(folder)
    SeamlessM4TFeatureExtractor(feature_size=8, num_mel_bins=8).save_pretrained(folder)
    return model.eval()


def save_mert(folder: Path, *, stable: bool = False, **published: Any) -> HubertModel:
    """As m-a-p/MERT-v1: weights by torch.save, a configuration that names remote code; 600 Hz of 24 kHz."""
    torch.manual_seed(0)
    config = HubertConfig(
        **_SIZES,
        conv_dim=(8, 8, 8),
        conv_kernel=(10, 3, 2),
        conv_stride=(10, 2, 2),
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        do_stable_layer_norm=stable,
    )
    model = HubertModel(config)
    model.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    _change(folder / "config.json", {"model_type": "mert_model", "auto_map": {"AutoModel": "evil.Model"}, **published})
    (folder / "evil.py").write_text("raise SystemExit('remote code was run')")
    Wav2Vec2FeatureExtractor(sampling_rate=24_000, do_normalize=True).save_pretrained(folder)
    return model.eval()


def save_musicfm(folder: Path) -> dict[str, torch.Tensor]:
    """As minzwon/MusicFM: a checkpoint of a module `model` with all that it was trained with. 16 mel bands."""
    torch.manual_seed(0)
    conformer = Wav2Vec2ConformerEncoder(
        Wav2Vec2ConformerConfig(
            **_SIZES, position_embeddings_type="rotary", hidden_act="swish", num_conv_pos_embedding_groups=2
        )
    )
    weights = {f"conformer.{name}": tensor for name, tensor in conformer.state_dict().items()}
    for index, channels in enumerate((1, 4)):
        for number, (before, kernel) in enumerate(((channels, 3), (4, 3), (channels, 3)), start=1):
            name = f"conv.conv.{index}."
            weights[f"{name}conv{number}.weight"] = torch.randn(4, before, kernel, kernel) / 3
            weights[f"{name}conv{number}.bias"] = torch.randn(4) / 3
            normalised = torch.nn.BatchNorm2d(4)
            weights |= {f"{name}bn{number}.{key}": value for key, value in normalised.state_dict().items()}
    weights |= {"conv.linear.weight": torch.randn(WIDTH, 16) / 4, "conv.linear.bias": torch.zeros(WIDTH)}
    weights |= {"linear.weight": torch.zeros(7, WIDTH), "linear.bias": torch.zeros(7), "cls_token": torch.zeros(WIDTH)}
    weights |= {"quantizer_melspec_2048_0.codebook": torch.zeros(7, 4)}
    weights |= {"preprocessor_melspec_2048.melspec.spectrogram.window": torch.zeros(2048)}
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {f"model.{key}": value for key, value in weights.items()}}, folder / "pretrained_msd.pt")
    (folder / "msd_stats.json").write_text(json.dumps({"melspec_2048_mean": 6.77, "melspec_2048_std": 18.4}))
    return weights


def save_clap(folder: Path, *, fusion: bool = False) -> ClapModel:
    """As laion/clap-htsat: windows of 1 s at 48 kHz, 8 mel bands, 6-dimensional."""
    torch.manual_seed(0)
    audio = ClapAudioConfig(
        patch_embeds_hidden_size=8,
        hidden_size=16,
        depths=[1, 1],
        num_attention_heads=[1, 2],
        num_hidden_layers=2,
        spec_size=32,
        num_mel_bins=8,
        window_size=4,
        enable_fusion=fusion,
        fusion_type="aff_2d" if fusion else None,
    )
    text = ClapTextConfig(vocab_size=280, max_position_embeddings=18, pad_token_id=1, **_SIZES)
    config = ClapConfig(audio_config=audio.to_dict(), text_config=text.to_dict(), projection_dim=6)
    model = ClapModel(config)
    model.save_pretrained(folder)
    ClapFeatureExtractor(
        feature_size=8,
        max_length_s=1,
        hop_length=1536,
        truncation="fusion" if fusion else "rand_trunc",
    ).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return model.eval()


def _tokenizer() -> RobertaTokenizer:
    """Bytes alone, without merges."""
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *"abcdefghijklmnopqrstuvwxyz"]
    return RobertaTokenizer(vocab={name: place for place, name in enumerate(names)}, merges=[])


def _change(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
