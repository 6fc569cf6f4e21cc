"""Training a codec against a discriminator, as EnCodec was (arXiv 2210.13438, section 3.4).

Legend: B batch, T samples.
"""

import torch
from torch import Tensor

from v2meow.config import LappedCodecConfig
from v2meow.encoders.codec.adversarial import Discriminator
from v2meow.train.optim import make_optimizer

_LEARNS = (True, True, False)  # two steps of three, as at 24 kHz: it is stronger than the codec
_AVERAGED = 0.999  # of the norms of gradients


class Balancer:
    """Gradients of several losses at one output, scaled so that weights mean shares, whatever the losses' scales.

    EnCodec's balancer scales the sum to a fixed norm. Here it is the usual norm of the first loss's own gradient,
    so that losses that do not pass through the output keep their weight beside it.
    """

    def __init__(self, weights: dict[str, float]) -> None:
        self.weights = weights
        self._norms: dict[str, Tensor] = {}

    def gradient(self, losses: dict[str, Tensor], output: Tensor) -> Tensor:
        """The balanced gradient of these losses at `output`, in its shape."""
        gradients = {name: torch.autograd.grad(loss, output, retain_graph=True)[0] for name, loss in losses.items()}
        for name, gradient in gradients.items():
            norm = gradient.norm()
            self._norms[name] = torch.lerp(norm, self._norms.get(name, norm), _AVERAGED)
        reference, total = self._norms[next(iter(losses))], sum(self.weights.values())
        scales = {name: reference * self.weights[name] / total / self._norms[name].clamp(min=1e-12) for name in losses}
        return torch.stack([scales[name] * gradient for name, gradient in gradients.items()]).sum(0)


class Adversary:
    """The discriminator in training, beside the codec that it judges."""

    def __init__(self, config: LappedCodecConfig) -> None:
        self._discriminator = Discriminator(config.discriminator_filters).train()
        self._optimizer = make_optimizer(self._discriminator, config.learning_rate, 1e-4)
        weight = config.adversarial_weight
        self._balancer = Balancer({"mel": 1.0, "adversarial": weight, "matching": weight})
        self._step = 0

    def gradient(self, mel: Tensor, restored: Tensor, heard: Tensor) -> Tensor:
        """What the codec shall change in `restored` [B, T], of log-mel's loss and the discriminator's two."""
        adversarial, matching = self._discriminator.generator_losses(heard, restored)
        return self._balancer.gradient({"mel": mel, "adversarial": adversarial, "matching": matching}, restored)

    def learn(self, restored: Tensor, heard: Tensor) -> None:
        """A step of the discriminator, two times of three."""
        self._step += 1
        if not _LEARNS[(self._step - 1) % len(_LEARNS)]:
            return
        self._optimizer.zero_grad(set_to_none=True)
        self._discriminator.loss(heard, restored).backward()
        self._optimizer.step()
