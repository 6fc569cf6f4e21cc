"""A model folder: `model.safetensors + config.json + metrics.json`, complete or absent, never pickle."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialised
from torch import nn

from v2meow.files import atomic_folder, read_json, write_json

WEIGHTS, CONFIG, METRICS = "model.safetensors", "config.json", "metrics.json"


class ModelError(ValueError):
    """A model folder that cannot be loaded; the message names the folder and the reason."""


def save(folder: Path, module: nn.Module, config: dict[str, Any], metrics: dict[str, Any]) -> None:
    """Write a model folder whole: it takes the place of an older one only when all of it is there.

    Raises ModelError or OSError naming the file when the disk is full.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    with atomic_folder(folder) as temporary:
        (temporary / WEIGHTS).write_bytes(serialised(weights))  # save_file hides a full disk in an error of its own
        write_json(temporary / METRICS, metrics)
        write_json(temporary / CONFIG, config)


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
