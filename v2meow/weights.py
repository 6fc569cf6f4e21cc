"""A model folder: `model.safetensors + config.json + metrics.json`, complete or absent, never pickle."""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialised
from torch import Tensor, nn

from v2meow.files import atomic_folder, read_json, write_json

WEIGHTS, CONFIG, METRICS = "model.safetensors", "config.json", "metrics.json"


class ModelError(ValueError):
    """A model folder that cannot be loaded; the message names the folder and the reason."""


def save(
    folder: Path, module: nn.Module, config: dict[str, Any], metrics: dict[str, Any], *, half: bool = False
) -> None:
    """Write a model folder whole: it takes the place of an older one only when all of it is there.

    With `half` its weights are those that `halve` would leave. Raises ModelError or OSError naming the file when the
    disk is full.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    weights = {name: _half(tensor) if half else tensor for name, tensor in weights.items()}
    with atomic_folder(folder) as temporary:
        (temporary / WEIGHTS).write_bytes(serialised(weights))  # save_file hides a full disk in an error of its own
        write_json(temporary / METRICS, metrics)
        write_json(temporary / CONFIG, config)


def halve(source: Path, folder: Path) -> None:
    """Copy a model folder with its float32 weights in float16, which is half the size and as good to generate with.

    A tensor that float16 cannot hold stays as it is. Raises ModelError when the source is damaged.
    """
    try:
        found = load_file(source / WEIGHTS)
    except (FileNotFoundError, SafetensorError) as error:
        raise ModelError(f"{source / WEIGHTS} is missing or damaged: {error}") from error
    with atomic_folder(folder) as temporary:
        for name in (CONFIG, METRICS):
            shutil.copyfile(source / name, temporary / name)
        halved = {name: _half(tensor) for name, tensor in found.items()}
        (temporary / WEIGHTS).write_bytes(serialised(halved))


def _half(tensor: Tensor) -> Tensor:
    half = tensor.half()
    return half if tensor.dtype == torch.float32 and bool(half.isfinite().all()) else tensor


def load_into(module: nn.Module, folder: Path) -> None:
    """Fill `module` with a folder's weights. ModelError when a name or a shape does not fit, or a file is damaged."""
    try:
        module.load_state_dict(load_file(folder / WEIGHTS))
    except FileNotFoundError as error:
        raise ModelError(f"{folder} is not a model folder: {WEIGHTS} is missing") from error
    except (SafetensorError, RuntimeError) as error:
        raise ModelError(f"{folder / WEIGHTS} does not fit its config.json or is damaged: {error}") from error


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder; ModelError when it is missing or not a mapping."""
    try:
        config = read_json(folder / CONFIG)
    except FileNotFoundError as error:
        raise ModelError(f"{folder} is not a model folder: {CONFIG} is missing") from error
    except ValueError as error:
        raise ModelError(str(error)) from error
    if not isinstance(config, dict):
        raise ModelError(f"{folder / CONFIG}: expected a mapping")
    return config
