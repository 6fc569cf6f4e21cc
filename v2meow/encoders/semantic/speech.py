"""Hidden states of w2v-BERT 2.0 and of MERT, through `transformers`, from folders as they are published.

Layers above the one that is asked for are dropped: they would be computed for nothing.
Legend: B batch, T samples, F frames, D width, M mel bands.
"""

from pathlib import Path
from typing import Any

import torch
import torchaudio
from torch import Tensor, nn
from transformers import HubertModel, SeamlessM4TFeatureExtractor, Wav2Vec2BertModel, Wav2Vec2FeatureExtractor

from v2meow.config import RecipeError
from v2meow.encoders.hub_format import load_model, load_processor
from v2meow.weights import CONFIG, ModelError

_PREPROCESSOR = "preprocessor_config.json"
_WINDOW, _STEP = 400, 160  # samples of a mel frame at 16 kHz, as in Kaldi
_TINY = 1e-7  # beside variances, in both feature extractors


class W2vBert:
    """w2v-BERT 2.0 (Barrault et al., arXiv 2312.05187; w2v-BERT: arXiv 2108.06209): a conformer over log-mel."""

    def __init__(self, folder: Path, layer: int, device: torch.device) -> None:
        extractor = load_processor(SeamlessM4TFeatureExtractor, folder, _PREPROCESSOR)
        model = load_model(Wav2Vec2BertModel, folder, ("wav2vec2-bert",))
        self.sample_rate: int = extractor.sampling_rate
        self._mels, self._stride = extractor.num_mel_bins, extractor.stride
        self.hop, self.reach = _STEP * self._stride, _STEP * (self._stride - 1) + _WINDOW
        self.width: int = model.config.hidden_size
        keep_layers(model.encoder, layer, folder)
        model.adapter = model.intermediate_ffn = None  # they come after the layers
        self._model = model.to(device)

    def __call__(self, waveform: Tensor) -> Tensor:
        with torch.autocast(waveform.device.type, enabled=False):  # spectra need more digits than bfloat16 has
            mel = self.mel(waveform)
        return self._model(mel).last_hidden_state

    def mel(self, waveform: Tensor) -> Tensor:
        """[B, T] → [B, F, stride * M], as SeamlessM4TFeatureExtractor makes it, on the waveform's device."""
        rows = torch.stack([self._fbank(row) for row in waveform.float()])
        variance, mean = torch.var_mean(rows, dim=1, keepdim=True)  # of each band over the whole piece
        rows = (rows - mean) / torch.sqrt(variance + _TINY)
        whole = rows.shape[1] // self._stride * self._stride
        return rows[:, :whole].unflatten(1, (-1, self._stride)).flatten(2)

    def _fbank(self, waveform: Tensor) -> Tensor:
        return torchaudio.compliance.kaldi.fbank(
            waveform[None] * 2**15,  # of 16-bit integers
            num_mel_bins=self._mels,
            sample_frequency=self.sample_rate,
            window_type="povey",
            low_freq=20.0,
            dither=0.0,
        )


class Mert:
    """MERT (Li et al., arXiv 2306.00107): HuBERT's architecture, trained on music.

    It is published with code of its own, which is not run: without that code's options (constant-Q spectra beside
    the waveform, DeepNorm) its forward pass is HuBERT's, and a publication that uses them is refused. Its relaxed
    attention is the same function, computed so that float16 does not overflow.
    """

    def __init__(self, folder: Path, layer: int, device: torch.device) -> None:
        extractor = load_processor(Wav2Vec2FeatureExtractor, folder, _PREPROCESSOR)
        model = load_model(HubertModel, folder, ("mert_model", "hubert"))
        for option in ("feature_extractor_cqt", "deepnorm"):
            if getattr(model.config, option, False):
                raise ModelError(f"{folder / CONFIG}: {option} is set, and HuBERT's architecture has nothing like it")
        self.sample_rate: int = extractor.sampling_rate
        self._normalise: bool = extractor.do_normalize
        self.hop, self.reach = _strided(model.config.conv_kernel, model.config.conv_stride)
        self.width: int = model.config.hidden_size
        dropped = keep_layers(model.encoder, layer, folder)
        if dropped and model.config.do_stable_layer_norm:
            model.encoder.layer_norm = nn.Identity()  # it comes after the last layer
        self._model = model.to(device)

    def __call__(self, waveform: Tensor) -> Tensor:
        if self._normalise:
            variance, mean = torch.var_mean(waveform, dim=1, keepdim=True, correction=0)
            waveform = (waveform - mean) / torch.sqrt(variance + _TINY)
        return self._model(waveform).last_hidden_state


def keep_layers(encoder: Any, layer: int, folder: Path) -> int:
    """Drop the layers of an encoder above number `layer`, from 1; returns how many. RecipeError when it lacks it."""
    count = len(encoder.layers)
    if not 1 <= layer <= count:
        raise RecipeError(f"semantic_ids.layer: the model in {folder} has layers 1 to {count}, not {layer}")
    encoder.layers = encoder.layers[:layer]
    return count - layer


def _strided(kernels: list[int], strides: list[int]) -> tuple[int, int]:
    """Hop and reach in samples of a stack of convolutions without padding."""
    hop, reach = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        reach += (kernel - 1) * hop
        hop *= stride
    return hop, reach
