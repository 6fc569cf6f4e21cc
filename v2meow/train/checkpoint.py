"""Where a killed training goes on from: its state on disk, bound to what it was computed from.

A checkpoint is a folder `step-00001200` of `state.safetensors` and `config.json` (format, fingerprint, step, the
file's SHA-256 and whatever the step keeps besides). It appears whole, and only then the one before it goes.
"""

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialised

from v2meow.config import Recipe, StageName
from v2meow.data.manifest import EXAMPLES
from v2meow.files import atomic_folder, read_json, sha256, write_json
from v2meow.train.state import TrainState

CHECKPOINTS = Path("checkpoints")
_FORMAT = 1
_STATE, _CONFIG = "state.safetensors", "config.json"
# Of the recipe, what a stage's training depends on; the same as in dvc.yaml.
SECTIONS = ("seed", "data", "visual", "semantic_ids", "codec", "joint")


class CheckpointError(ValueError):
    """A checkpoint that training cannot go on from; the message says why in one line."""


class Checkpoints:
    """The checkpoints of one stage's training in `folder`, for work that `fingerprint` names."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder, self._fingerprint = folder, fingerprint

    def save(self, state: TrainState, besides: Any) -> None:
        """Save `state` and the JSON value `besides`. OSError naming the folder when the disk is full."""
        folder = self._folder / f"step-{state.step:08d}"
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors().items()}
        with atomic_folder(folder) as temporary:
            (temporary / _STATE).write_bytes(serialised(tensors))
            config = {"format": _FORMAT, "fingerprint": self._fingerprint, "step": state.step, "besides": besides}
            write_json(temporary / _CONFIG, config | {"sha256": sha256(temporary / _STATE)})
        for other in self._folder.iterdir():
            if other != folder:  # also what a process that was killed here left half written
                shutil.rmtree(other, ignore_errors=True)

    def resume(self, state: TrainState) -> Any:
        """Bring `state` to the newest checkpoint and return what was saved besides; None when there is none.

        CheckpointError when that checkpoint is damaged or of other work; `state` is then as it was.
        """
        newest = max(self._folder.glob("step-*"), default=None)
        if newest is None:
            return None
        config = _read_config(newest)
        if config["fingerprint"] != self._fingerprint:
            raise CheckpointError(f"{newest} belongs to another recipe, other examples or another torch")
        if not (newest / _STATE).is_file() or sha256(newest / _STATE) != config["sha256"]:
            raise CheckpointError(f"{newest / _STATE} is damaged")
        state.restore(load_file(newest / _STATE), config["step"])
        return config["besides"]

    def discard(self) -> None:
        """Remove all of them."""
        shutil.rmtree(self._folder, ignore_errors=True)


def fingerprint(recipe: Recipe, stage: StageName, workspace: Path, device: torch.device) -> str:
    """SHA-256 of everything that decides the weights after a step, apart from this project's code."""
    sections = asdict(recipe)
    decisive = {
        "recipe": {name: sections[name] for name in SECTIONS},
        "stages": {name: value for name, value in sections["stages"].items() if name in (stage, *_shared(sections))},
        "examples": {file.name: sha256(file) for file in sorted((workspace / EXAMPLES).glob("*.parquet"))},
        "torch": torch.__version__,
        "device": device.type,
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _shared(sections: dict[str, Any]) -> list[str]:
    """Keys of `stages` that are no stage, such as the number of coarse levels."""
    return [name for name, value in sections["stages"].items() if not isinstance(value, dict)]


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = read_json(folder / _CONFIG)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / _CONFIG} is damaged") from error
    if not isinstance(config, dict) or {"fingerprint", "step", "sha256", "besides"} - config.keys():
        raise CheckpointError(f"{folder / _CONFIG} is damaged")
    if config.get("format") != _FORMAT:
        raise CheckpointError(f"{folder} was written by another version")
    return config
