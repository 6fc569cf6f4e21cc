"""Everything that the next training step depends on besides its batch: model, optimizer, average, best weights.

It comes apart into named tensors and back to the bit. Random numbers of a step are a function of seed, step and worker,
so there is no random stream to keep. Knows nothing of files. Runs with torch alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from v2meow.config import StageConfig
from v2meow.model.lm import TokenLM
from v2meow.train.optim import make_optimizer


class TrainState:
    """Training of one model after `step` steps.

    `average` is the running average of its weights, `best` the weights that `keep_best` has seen; empty when off. The
    best ones are a part of the state and not a checkpoint of their own: so they are in every checkpoint, whichever of
    them is lost, and come back with it.
    """

    def __init__(self, model: TokenLM, config: StageConfig, seed: int = 0) -> None:
        self.model, self.decay, self.step, self.seed = model, config.ema, 0, seed
        self.optimizer = make_optimizer(model, config.learning_rate, config.weight_decay)
        self.average = self._weights() if config.ema else {}
        self.best = self._weights() if config.keep_best else {}

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

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside the block the model has the weights that it is to have if training ends now: the average, if any."""
        present = self._weights() if self.average else {}
        self._use(self.average)
        try:
            yield
        finally:
            self._use(present)

    @torch.no_grad()
    def keep_best(self) -> None:
        """Keep the present weights as the best ones."""
        for name, parameter in self.model.named_parameters():
            self.best[name].copy_(parameter)

    def use_result(self) -> None:
        """Make the best weights, or else the average, the model's. Training cannot go on from there."""
        self._use(self.best or self.average)

    def _weights(self) -> dict[str, Tensor]:
        """A copy of them."""
        return {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}

    @torch.no_grad()
    def _use(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self.model.named_parameters():
            if name in weights:
                parameter.copy_(weights[name])

    def tensors(self) -> dict[str, Tensor]:
        """All of it but `step`, by name: the living tensors, not copies."""
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.model.named_parameters()}
        return (
            {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
            | {f"average.{name}": tensor for name, tensor in self.average.items()}
            | {f"best.{name}": tensor for name, tensor in self.best.items()}
            | {
                f"optimizer.{names[parameter]}.{key}": value
                for parameter, moments in self.optimizer.state.items()
                for key, value in moments.items()
            }
        )

    def ready(self) -> None:
        """Give the optimizer its moments, so that `tensors` are all there before the first step."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                if not self.optimizer.state[parameter]:
                    self.optimizer.state[parameter] = {
                        "step": torch.zeros((), device=parameter.device),
                        "exp_avg": torch.zeros_like(parameter),
                        "exp_avg_sq": torch.zeros_like(parameter),
                    }
