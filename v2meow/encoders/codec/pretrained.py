"""EnCodec as published (arXiv 2210.13438), from the state dicts that its package would download.

What the package's model does is kept; reading the weights, and decoding in parts, are ours.
"""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from encodec.modules.seanet import SEANetDecoder, SEANetEncoder
from encodec.quantization.vq import ResidualVectorQuantizer
from torch import Tensor, nn

from v2meow.config import EncodecConfig
from v2meow.encoders.audio import best_device
from v2meow.encoders.codec.causal import CausalEncodec
from v2meow.encoders.codec.segmented import SegmentedEncodec
from v2meow.weights import ModelError

CHECKPOINTS = {24_000: "encodec_24khz-d7cc33bc.th", 48_000: "encodec_48khz-7e698e3e.th"}  # the package's own names
_CHANNELS = {24_000: 1, 48_000: 2}


class EncodecParts(nn.Module):
    """Encoder, quantizer and decoder under the names of the published state dicts; widths are those of the weights."""

    def __init__(self, sample_rate: int, filters: int, width: int, levels: int, bins: int) -> None:
        super().__init__()
        causal = sample_rate == 24_000
        common: dict[str, Any] = {
            "channels": _CHANNELS[sample_rate],
            "n_filters": filters,
            "dimension": width,
            "causal": causal,
            "norm": "weight_norm" if causal else "time_group_norm",
        }
        self.encoder, self.decoder = SEANetEncoder(**common), SEANetDecoder(**common)
        self.quantizer = ResidualVectorQuantizer(dimension=width, n_q=levels, bins=bins)


def load_published(config: EncodecConfig, folder: Path) -> CausalEncodec | SegmentedEncodec:
    """EnCodec from the checkpoint in `folder`, on the GPU where there is one. ModelError naming the file."""
    path = folder / CHECKPOINTS[config.sample_rate]
    state = _read(path)
    try:
        parts = _fitting(config, state)
        parts.load_state_dict(state)
    except KeyError as error:
        raise ModelError(
            f"{path} is not EnCodec's state dict for {config.sample_rate} Hz: {error} is missing"
        ) from error
    except (RuntimeError, AttributeError) as error:
        raise ModelError(f"{path} is not EnCodec's state dict for {config.sample_rate} Hz: {error}") from error
    levels, bins = len(parts.quantizer.vq.layers), parts.quantizer.bins
    if levels < config.levels or bins != config.bins:
        raise ModelError(
            f"{path} has {levels} codebooks of {bins} entries; codec.bandwidth {config.bandwidth:g} needs "
            f"{config.levels} of {config.bins}"
        )
    kind = CausalEncodec if config.sample_rate == 24_000 else SegmentedEncodec
    return kind(config, parts.encoder, parts.quantizer, parts.decoder).to(best_device()).eval()


def _read(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing") from error
    except (RuntimeError, UnpicklingError, EOFError, ValueError, KeyError) as error:
        raise ModelError(f"{path} is damaged or not a state dict: {error}") from error
    if not isinstance(state, dict):
        raise ModelError(f"{path} is not a state dict")
    return state


def _fitting(config: EncodecConfig, state: dict[str, Tensor]) -> EncodecParts:
    """Parts as wide as the weights. KeyError when there is nothing to tell it by."""
    first = "weight_v" if config.sample_rate == 24_000 else "weight"
    bins, width = state["quantizer.vq.layers.0._codebook.embed"].shape
    levels = len({name.split(".")[3] for name in state if name.startswith("quantizer.vq.layers.")})
    return EncodecParts(config.sample_rate, len(state[f"encoder.model.0.conv.conv.{first}"]), width, levels, bins)
