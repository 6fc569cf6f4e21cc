"""Frames from hidden states of a pretrained model, brought to the rate of the ids.

Legend: B batch, T samples, F frames of the model, S frames of the ids, D width.
"""

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from v2meow.config import PretrainedIdsConfig
from v2meow.encoders.audio import resample
from v2meow.encoders.semantic.frames import centred, change_rate, frames_needed
from v2meow.encoders.semantic.musicfm import MusicFM
from v2meow.encoders.semantic.speech import Mert, W2vBert


class HiddenStates(Protocol):
    """A model that makes a frame [D] every `hop` samples at `sample_rate` Hz, of the `reach` samples from there on."""

    sample_rate: int
    hop: int
    reach: int
    width: int

    def __call__(self, waveform: Tensor) -> Tensor:
        """[B, (F - 1) * hop + reach] → [B, F, D]."""
        ...


_MODELS = {"w2v-bert": W2vBert, "mert": Mert, "musicfm": MusicFM}


class PretrainedFrames:
    """Hidden states after `layer` layers, as means over the time of each id."""

    def __init__(self, config: PretrainedIdsConfig, sample_rate: int, folder: Path, device: torch.device) -> None:
        """Load the model that is published in `folder`.

        ModelError naming the file when it is damaged or of another kind, RecipeError when the model lacks the layer.
        """
        self._model: HiddenStates = _MODELS[config.kind](folder, config.layer, device)
        self.sample_rate, self.width = sample_rate, self._model.width
        self._rate, self._device, self._bfloat16 = config.rate, device, config.bfloat16

    @torch.inference_mode()
    def __call__(self, waveform: Tensor) -> Tensor:
        """[B, T] → float32 [B, S, D] on the model's device."""
        model, count = self._model, waveform.shape[1] // (self.sample_rate // self._rate)
        own_rate = model.sample_rate / model.hop
        sound = resample(waveform.to(self._device), self.sample_rate, model.sample_rate)
        sound = centred(sound, frames_needed(count, self._rate, own_rate), model.hop, model.reach)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16):
            hidden = model(sound)
        return change_rate(hidden.float(), own_rate, self._rate, count)
