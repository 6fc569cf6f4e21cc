"""A stage on disk: a model folder whose config.json is the StageSpec."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from v2meow import weights
from v2meow.model.lm import StageSpec, Stream, TokenLM, VisualInput


def save_stage(folder: Path, model: TokenLM, metrics: dict[str, Any]) -> None:
    """Write a stage's model folder."""
    weights.save(folder, model, dataclasses.asdict(model.spec), metrics)


def load_stage(folder: Path) -> TokenLM:
    """A stage from its folder, in evaluation mode on the CPU."""
    spec = _spec(weights.read_config(folder), folder)
    with torch.device("meta"):  # at 400 M parameters, beginnings that nobody needs would take seconds
        model = TokenLM(spec)
    model.to_empty(device="cpu")
    weights.load_into(model, folder)
    return model.eval()


def _spec(config: dict[str, Any], folder: Path) -> StageSpec:
    try:
        target, prefix = Stream(**config["target"]), Stream(**config["prefix"]) if config["prefix"] else None
        visual = tuple(VisualInput(**entry) for entry in config["visual"])
        return StageSpec(**{**config, "target": target, "prefix": prefix, "visual": visual})
    except (KeyError, TypeError) as error:
        raise weights.ModelError(f"{folder / weights.CONFIG} does not describe a stage: {error}") from error
