"""CLAP (Wu et al., arXiv 2211.06687) through `transformers`, from a folder as laion/clap-htsat-* are published."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

from v2meow.config import ClapConfig
from v2meow.encoders.audio import resample, windows
from v2meow.encoders.hub_format import load_model, load_processor


class Clap:
    """Music of any length is the mean over windows of the length that the model was trained on.

    Legend: B batch, T samples, W windows, N windows of the whole batch.
    """

    def __init__(self, config: ClapConfig, sample_rate: int, folder: Path, device: torch.device) -> None:
        """Load the model published in `folder`; ModelError naming the file when it is damaged or of another kind."""
        self.config, self.sample_rate = config, sample_rate
        self._extractor = load_processor(ClapFeatureExtractor, folder, "preprocessor_config.json")
        self._tokenizer = load_processor(AutoTokenizer, folder, "tokenizer_config.json")
        self._model = load_model(ClapModel, folder, ("clap",)).to(device)
        self._device = device

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return self._model.config.projection_dim

    @torch.inference_mode()
    def embed_audio(self, waveform: Tensor) -> Tensor:
        """[B, T] → unit vectors float32 [B, width], on the waveform's device."""
        extractor = self._extractor
        sound = resample(waveform, self.sample_rate, extractor.sampling_rate).cpu()
        if sound.shape[1] < extractor.nb_max_samples:
            parts = sound[:, None]  # the extractor has a way of its own to fill a window
        else:
            parts = windows(sound, extractor.nb_max_samples)
        rows = torch.cat([self._embed_windows(part) for part in parts.flatten(0, 1).split(self.config.batch)])
        return F.normalize(rows.unflatten(0, parts.shape[:2]).mean(1), dim=-1).to(waveform.device)

    def _embed_windows(self, sound: Tensor) -> Tensor:
        """[N, T] of at most one window → [N, width].

        A model with feature fusion is told that nothing was cut: its extractor else says so of one row, at random.
        """
        made = self._extractor(list(sound.numpy()), sampling_rate=self._extractor.sampling_rate, return_tensors="pt")
        with self._precision():
            found = self._model.get_audio_features(
                made["input_features"].to(self._device, torch.float32), torch.zeros_like(made["is_longer"])
            )
        return found.pooler_output.float()

    @torch.inference_mode()
    def embed_text(self, texts: list[str]) -> Tensor:
        """B texts → unit vectors float32 [B, width]; what a text has beyond the model's length is cut off."""
        longest = self._model.config.text_config.max_position_embeddings - 2  # RoBERTa counts positions from 2
        rows = []
        for first in range(0, len(texts), self.config.batch):
            made = self._tokenizer(
                texts[first : first + self.config.batch],
                padding=True,
                truncation=True,
                max_length=longest,
                return_tensors="pt",
            ).to(self._device)
            with self._precision():
                found = self._model.get_text_features(made["input_ids"], made["attention_mask"])
            rows.append(found.pooler_output.float())
        return F.normalize(torch.cat(rows), dim=-1).cpu()

    def _precision(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self.config.bfloat16)
