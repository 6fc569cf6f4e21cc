"""A stage on disk: a model folder whose config.json is the StageSpec."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.nn import init
from torch.overrides import TorchFunctionMode

from v2meow import weights
from v2meow.model.lm import StageSpec, Stream, TokenLM, VisualInput

_DRAWING = init.normal_, init.uniform_, init.kaiming_uniform_


def save_stage(folder: Path, model: TokenLM, metrics: dict[str, Any]) -> None:
    """Write a stage's model folder."""
    weights.save(folder, model, dataclasses.asdict(model.spec), metrics)


def load_stage(folder: Path) -> TokenLM:
    """A stage from its folder, in evaluation mode on the CPU."""
    spec = _spec(weights.read_config(folder), folder)
    with _NothingDrawn():  # beginnings that nobody needs would take seconds at 400 M parameters
        model = TokenLM(spec)
    weights.load_into(model, folder)
    return model.eval()


class _NothingDrawn(TorchFunctionMode):
    """Leaves what would be drawn at random unset, for this thread. Building on PyTorch's device `meta` does that, too,
    and imports a second's worth of modules for it.
    """

    def __torch_function__(
        self, function: Callable[..., Any], _: Any, given: tuple[Any, ...] = (), named: dict[str, Any] | None = None
    ) -> Any:
        named = named or {}
        if function in _DRAWING:
            return given[0] if given else named["tensor"]
        return function(*given, **named)


def _spec(config: dict[str, Any], folder: Path) -> StageSpec:
    try:
        target, prefix = Stream(**config["target"]), Stream(**config["prefix"]) if config["prefix"] else None
        visual = tuple(VisualInput(**entry) for entry in config["visual"])
        return StageSpec(**{**config, "target": target, "prefix": prefix, "visual": visual})
    except (KeyError, TypeError) as error:
        raise weights.ModelError(f"{folder / weights.CONFIG} does not describe a stage: {error}") from error
