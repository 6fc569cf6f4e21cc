"""Hidden states of MusicFM (Won et al., arXiv 2311.03318): a conformer over log-mel at 25 Hz.

It is published as a training checkpoint: `state_dict` of a module `model`, and the mean and spread of its input in
NAME_stats.json. All sizes are read off the tensors; the architecture is that of the authors' musicfm_25hz.
Legend: B batch, T samples, F frames, D width, C channels, M mel bands.
"""

import re
from pathlib import Path
from typing import Any

import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Wav2Vec2ConformerConfig
from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import Wav2Vec2ConformerEncoder

from v2meow.encoders.published import find_weights, loading
from v2meow.encoders.semantic.speech import keep_layers
from v2meow.files import read_json
from v2meow.weights import ModelError

_RATE, _FFT, _MEL_HOP = 24_000, 2048, 240
_PREFIX = "model."
_NOT_USED = ("preprocessor_", "quantizer_", "linear.", "cls_token", "conformer.pos_conv_embed.")  # in this direction


class MusicFM:
    """The published model without its heads; `pos_conv_embed` is in the checkpoint, but no forward pass uses it."""

    sample_rate = _RATE

    def __init__(self, folder: Path, layer: int, device: torch.device) -> None:
        file = find_weights(folder, prefix="pretrained")
        with loading(file, "a checkpoint of MusicFM"):
            weights = _read(file)
            network = _Network(weights)
            network.load_state_dict(weights)
        self._mean, self._spread = _read_statistics(folder)
        self.hop = self.reach = 4 * _MEL_HOP
        self.width = network.conv.linear.out_features
        if keep_layers(network.conformer, layer, folder):
            network.conformer.layer_norm = nn.Identity()  # it comes after the last layer
        self._network = network.eval().requires_grad_(False).to(device)
        self._mel = torchaudio.transforms.MelSpectrogram(
            _RATE, _FFT, hop_length=_MEL_HOP, n_mels=network.mels, power=2.0
        ).to(device)
        self._decibels = torchaudio.transforms.AmplitudeToDB()

    def __call__(self, waveform: Tensor) -> Tensor:
        """The model's frame i is centred on sample i * hop: half a hop more at both ends, and the first one is cut."""
        sound = F.pad(waveform.float(), (self.hop // 2, self.hop // 2))
        with torch.autocast(sound.device.type, enabled=False):
            mel = self._decibels(self._mel(sound))[..., :-1]
        return self._network((mel - self._mean) / self._spread)[:, 1:]


class _Network(nn.Module):
    """Log-mel [B, M, 4 F] → [B, F, D]; its parameters are named as in the checkpoint."""

    conformer: Any  # its parts are replaced by others

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        channels = weights["conv.conv.0.conv1.weight"].shape[0]
        width, joined = weights["conv.linear.weight"].shape
        self.mels = joined // channels * 4
        self.conv = _Subsampling(channels, width, joined)
        layers = {int(found[1]) for name in weights if (found := re.match(r"conformer\.layers\.(\d+)\.", name))}
        self.conformer = Wav2Vec2ConformerEncoder(
            Wav2Vec2ConformerConfig(
                hidden_size=width,
                num_hidden_layers=len(layers),
                num_attention_heads=width // (2 * len(weights["conformer.embed_positions.inv_freq"])),
                intermediate_size=len(weights["conformer.layers.0.ffn1.intermediate_dense.weight"]),
                conv_depthwise_kernel_size=weights["conformer.layers.0.conv_module.depthwise_conv.weight"].shape[2],
                position_embeddings_type="rotary",
                hidden_act="swish",
                layer_norm_eps=1e-5,
                num_conv_pos_embeddings=1,  # small, because it goes at once
                num_conv_pos_embedding_groups=1,
            )
        )
        self.conformer.pos_conv_embed = nn.Identity()

    def forward(self, mel: Tensor) -> Tensor:
        return self.conformer(self.conv(mel)).last_hidden_state


class _Subsampling(nn.Module):
    """[B, M, 4 F] → [B, F, D] by two residual convolutions of stride 2 in time and frequency."""

    def __init__(self, channels: int, width: int, joined: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(_Residual(1, channels), _Residual(channels, channels))
        self.linear = nn.Linear(joined, width)

    def forward(self, mel: Tensor) -> Tensor:
        found = self.conv(mel[:, None])  # [B, C, M / 4, F]
        return self.linear(found.permute(0, 3, 1, 2).flatten(2))


class _Residual(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, stride=2)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(after)
        self.conv3 = nn.Conv2d(before, after, 3, padding=1, stride=2)
        self.bn3 = nn.BatchNorm2d(after)

    def forward(self, picture: Tensor) -> Tensor:
        found = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(picture)))))
        return F.relu(self.bn3(self.conv3(picture)) + found)


def _read(file: Path) -> dict[str, Tensor]:
    """Tensors of the checkpoint that are used here, without their common prefix."""
    checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    names = {name.removeprefix(_PREFIX): tensor for name, tensor in checkpoint["state_dict"].items()}
    return {name: tensor for name, tensor in names.items() if not name.startswith(_NOT_USED)}


def _read_statistics(folder: Path) -> tuple[float, float]:
    """Mean and spread, in dB, of the log-mel that the model was trained on."""
    found = sorted(folder.glob("*_stats.json"))
    if len(found) != 1:
        raise ModelError(f"{folder} must hold one file NAME_stats.json, as it is published beside the weights")
    with loading(found[0], "statistics of MusicFM's input"):
        statistics = read_json(found[0])
        return float(statistics["melspec_2048_mean"]), float(statistics["melspec_2048_std"])
