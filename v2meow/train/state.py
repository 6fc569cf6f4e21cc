"""Everything that the next training step depends on besides its batch: model, optimizer, average, random streams.

It comes apart into named tensors and back to the bit. Knows nothing of files. Runs with torch alone.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from v2meow.config import StageConfig
from v2meow.model.lm import TokenLM
from v2meow.train.optim import make_optimizer


class TrainState:
    """Training of one model after `step` steps. `average` is the running average of its weights, empty when off."""

    def __init__(self, model: TokenLM, config: StageConfig) -> None:
        self.model, self.decay, self.step = model, config.ema, 0
        self.optimizer = make_optimizer(model, config.learning_rate, config.weight_decay)
        self.average = {name: p.detach().clone() for name, p in model.named_parameters()} if config.ema else {}

    @property
    def device(self) -> torch.device:
        return self.model.norm.weight.device

    @torch.no_grad()
    def update_average(self) -> None:
        """Count the present weights into the average, after `step` earlier ones.

        The decay starts low, or the random weights of the beginning would stay in for 1 / (1 - decay) steps.
        """
        if self.average:
            decay = min(self.decay, (1 + self.step) / (10 + self.step))
            get_ema_multi_avg_fn(decay)(tuple(self.average.values()), tuple(self.model.parameters()), self.step)

    @torch.no_grad()
    def use_average(self) -> None:
        """Make the average the model's weights. Training cannot go on from there."""
        for name, parameter in self.model.named_parameters():
            if name in self.average:
                parameter.copy_(self.average[name])

    def tensors(self) -> dict[str, Tensor]:
        """All of it but `step`, by name: the living tensors, not copies."""
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.model.named_parameters()}
        return (
            {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
            | {f"average.{name}": tensor for name, tensor in self.average.items()}
            | {
                f"optimizer.{names[parameter]}.{key}": value
                for parameter, moments in self.optimizer.state.items()
                for key, value in moments.items()
            }
            | {f"random.{name}": stream for name, stream in _random_streams(self.device).items()}
        )

    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Continue as the state did whose `tensors` these are, after `step` steps. KeyError when one is missing."""
        self.model.load_state_dict(_below("model.", tensors))
        for name, average in self.average.items():
            average.copy_(tensors[f"average.{name}"])
        self._restore_optimizer(_below("optimizer.", tensors))
        torch.set_rng_state(tensors["random.cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"], self.device)
        self.step = step

    def _restore_optimizer(self, moments: Mapping[str, Tensor]) -> None:
        of_parameter: dict[str, dict[str, Tensor]] = {}
        for name, value in moments.items():
            parameter, _, key = name.rpartition(".")
            of_parameter.setdefault(parameter, {})[key] = value.clone()  # the optimizer would keep the caller's own
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        ordered = [names[parameter] for group in self.optimizer.param_groups for parameter in group["params"]]
        packed = self.optimizer.state_dict()  # which counts parameters instead of naming them
        packed["state"] = {i: of_parameter[name] for i, name in enumerate(ordered) if name in of_parameter}
        self.optimizer.load_state_dict(packed)


def _random_streams(device: torch.device) -> dict[str, Tensor]:
    """States of the global random streams, which dropout draws from: uint8."""
    streams = {"cpu": torch.get_rng_state()}
    return streams | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else streams


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
