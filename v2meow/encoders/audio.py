"""What the encoders of sound share: sample rates, windows, the device, and what a model folder says of an encoder.

The config.json of an encoder's folder holds its recipe section as `config`, the rate of the waveforms that it was
fitted to as `sample_rate`, and for pretrained kinds the SHA-256 of the asset's files as `asset`.

Legend: B batch, T samples, W windows.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
import torchaudio
from torch import Tensor

from v2meow import assets, weights
from v2meow.encoders.published import check_asset
from v2meow.weights import CONFIG, ModelError

Config = TypeVar("Config")


def best_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resample(waveform: Tensor, source: int, target: int) -> Tensor:
    """[B, T] at `source` Hz → [B, T * target / source, rounded up] at `target` Hz, band-limited."""
    return torchaudio.functional.resample(waveform, source, target)


def windows(waveform: Tensor, length: int) -> Tensor:
    """[B, T] → [B, W, length]: as few windows as cover all of it, evenly spread. What is shorter is repeated."""
    samples = waveform.shape[1]
    if samples < length:
        return waveform.repeat(1, -(-length // samples))[:, None, :length]
    starts = torch.linspace(0, samples - length, -(-samples // length)).long()
    return torch.stack([waveform[:, start : start + length] for start in starts.tolist()], dim=1)


def describe(config: Any, sample_rate: int) -> dict[str, Any]:
    """What config.json says of an encoder of that recipe section, for waveforms of `sample_rate` Hz."""
    asset = {"asset": assets.fingerprint(config.asset)} if hasattr(config, "asset") else {}
    return {"config": asdict(config), "sample_rate": sample_rate, **asset}


def read_description(folder: Path, kinds: Mapping[str, type[Config]]) -> tuple[Config, int]:
    """The recipe section, of one of these kinds, and the sample rate of the encoder in a model folder.

    Raises ModelError naming config.json when it is of another kind or damaged, or when the asset that it was fitted
    with is no longer what it was; AssetError when that asset is not here.
    """
    saved, path = weights.read_config(folder), folder / CONFIG
    try:
        values, sample_rate = saved["config"], saved["sample_rate"]
        kind = values["kind"]
    except (KeyError, TypeError) as error:
        raise ModelError(f"{path} does not describe an encoder: {error} is missing") from error
    if kind not in kinds:
        raise ModelError(f"{path} describes an encoder of kind {kind!r}; expected one of {', '.join(kinds)}")
    try:
        config = kinds[kind](**values)
    except TypeError as error:
        raise ModelError(f"{path} does not describe an encoder of kind {kind}: {error}") from error
    if "asset" in values:
        check_asset(path, values["asset"], saved.get("asset", {}), "fit it again with `v2meow fit`")
    return config, sample_rate
