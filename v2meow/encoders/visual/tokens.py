"""Discrete tokens of VQ image models (van den Oord et al., arXiv 1711.00937; VQGAN, arXiv 2012.09841).

The tokenizers of Chameleon, Janus and Emu3 as transformers saves them, alone or inside the whole model. What becomes
a feature is each token's vector of the codebook, averaged over a raster.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

from v2meow.config import VisualTokensConfig
from v2meow.encoders.published import loading
from v2meow.weights import ModelError

_MODELS = {
    "chameleon_vqgan": transformers.ChameleonVQVAE,
    "janus_vqgan": transformers.JanusVQVAE,
    "emu3_vqgan": transformers.Emu3VQVAE,
}
_INSIDE_A_WHOLE_MODEL = {r"^(model\.)?vqmodel\.": ""}  # how its tensors are named there


class VisualTokens:
    """Codebook vectors averaged over a raster of `grid` x `grid` cells, row by row."""

    def __init__(self, config: VisualTokensConfig, folder: Path, device: torch.device) -> None:
        """Load the model in `folder`; ModelError naming it when it is damaged or no such model."""
        self._config, self._device = config, device
        with loading(folder, f"a VQ model of transformers, one of {', '.join(_MODELS)}"):
            self._model = _load(folder).eval().to(device)
        described = self._model.config
        self._token = 2 ** (len(described.channel_multiplier) - 1)  # pixels
        if config.size % self._token or config.size < config.grid * self._token:
            reason = f"visual.size must be a multiple of that and at least {config.grid} of them, not {config.size}"
            raise ModelError(f"{folder}: a token is a square of {self._token} pixels; {reason}")
        self.width: int = config.grid**2 * described.embed_dim

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Features float32 [V, grid * grid * embed_dim] of RGB frames uint8 [V, size, size, 3], one row a frame."""
        rows = [
            F.adaptive_avg_pool2d(self._vectors(tokens), self._config.grid).flatten(1).cpu()
            for tokens in map(self.tokens, np.split(frames, range(self._config.batch, len(frames), self._config.batch)))
        ]
        return torch.cat(rows).numpy()

    @torch.inference_mode()
    def tokens(self, frames: np.ndarray) -> Tensor:
        """Ids [B, size / token, size / token] of RGB frames uint8 [B, size, size, 3]."""
        side = self._config.size
        assert frames.shape[1:] == (side, side, 3), (frames.shape, side)
        pictures = torch.from_numpy(frames).to(self._device).permute(0, 3, 1, 2).float() / 127.5 - 1
        sizes = {"image_sizes": [(side, side)] * len(frames)} if self._model.config.model_type == "emu3_vqgan" else {}
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._config.bfloat16):
            ids = self._model.encode(pictures, **sizes).image_tokens
        ids = torch.stack(ids) if isinstance(ids, list) else ids
        return ids.reshape(len(frames), side // self._token, side // self._token)

    def _vectors(self, tokens: Tensor) -> Tensor:
        """The codebook's vectors [B, embed_dim, H, W] of tokens [B, H, W]."""
        vectors = self._model.quantize.inner.embedding(tokens)
        if self._model.config.model_type == "janus_vqgan":
            vectors = F.normalize(vectors, dim=-1)  # its decoder is given directions only
        return vectors.permute(0, 3, 1, 2)


class _Float32(nn.Module):
    """A quantizer that compares in float32: in bfloat16 many entries of a codebook are equally near."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: Tensor) -> Any:
        with torch.autocast(hidden.device.type, enabled=False):
            return self.inner(hidden.float())


def _load(folder: Path) -> Any:
    """The VQ model in `folder`, in float32. An exception of any kind when there is none."""
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()  # the rest of a whole model would be listed as unexpected
    whole = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    config = getattr(whole, "vq_config", whole)
    if config.model_type not in _MODELS:
        raise ModelError(f"{folder}: {config.model_type} is none of {', '.join(_MODELS)}")
    model, found = _MODELS[config.model_type].from_pretrained(
        folder,
        config=config,
        dtype=torch.float32,
        key_mapping=_INSIDE_A_WHOLE_MODEL,
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
    )
    if missing := found["missing_keys"]:
        raise ModelError(f"{folder}: {len(missing)} tensors are missing, such as {sorted(missing)[0]}")
    model.quantize = _Float32(model.quantize)
    return model
