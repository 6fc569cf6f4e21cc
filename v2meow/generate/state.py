"""Everything that decoding carries from step to step, as tensors that are allocated once.

Rows of the cache are copies of requests (for guidance); both are kept without gaps, so that a step is a slice.
Legend: Q requests, N rows, K codebooks, S steps, M memory.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from v2meow.config import SamplingConfig
from v2meow.generate.decoder import Decoder, Place
from v2meow.generate.guidance import COPIES
from v2meow.generate.linear import Precision
from v2meow.generate.sampling import sample
from v2meow.model.lm import TokenLM
from v2meow.model.patterns import UNKNOWN


@dataclass(frozen=True, kw_only=True)
class Extent:
    """What a step covers: the first `requests` requests, which have the first `rows` rows.

    No row has come to place `span` or has more than `memory` places of memory. `level`: all come to the last place
    before `span` now; `even`: all have that much memory; `single`: each request has one row, that of its own number,
    else up to `copies`.
    """

    requests: int
    rows: int
    span: int
    memory: int
    level: bool
    even: bool
    single: bool
    copies: int


class State:
    """`rows` of cache for windows of up to `seconds`, and as many requests at most."""

    def __init__(self, model: TokenLM, config: SamplingConfig, precision: Precision, rows: int, seconds: float) -> None:
        spec, device = model.spec, model.norm.weight.device
        frames = math.ceil(seconds * spec.target.rate)
        self.config, self.rows, self.steps = config, rows, model.layout(frames).steps
        # A window may begin between two pictures, so that it shows one more than its length says.
        self.pictures = sum(math.ceil(seconds * visual.rate) + 1 for visual in spec.visual)
        self.prefix = math.ceil(seconds * spec.prefix.rate) + self.pictures if spec.prefix else 0
        self.capacity, memory = self.prefix + self.steps, self.pictures + 1
        shape = {"rows": rows, "steps": self.steps, "places": self.capacity, "memory": memory}
        self.decoder = Decoder(model, precision, **shape)
        integers = {"dtype": torch.int64, "device": device}
        self.sequence = torch.full((rows, self.steps + 1, spec.target.levels), model.empty, **integers)
        self.numbers = torch.zeros(rows, self.steps, spec.target.levels, device=device)  # random, one for each draw
        self.step, self.offset = (torch.zeros(rows, **integers) for _ in range(2))
        self.owner = torch.zeros(rows, **integers)  # the request of each row
        self.heard = torch.zeros(rows, **integers)  # how much of its memory is filled
        # The rows of each request and their weights in its logits; where it has fewer, any row of weight nought.
        self.copies = torch.zeros(rows, COPIES, **integers)
        self.weights = torch.zeros(rows, COPIES, 1, 1, device=device)
        self.logits = torch.zeros(rows, spec.target.levels * spec.target.bins, device=device)  # of the last step
        self._counting = torch.arange(rows, device=device)

    def run(self, extent: Extent) -> None:
        """One step: the next code of every codebook, for each request."""
        step, request = self.step[: extent.requests], self._counting[: extent.requests]
        owner = request if extent.single else self.owner[: extent.rows]
        at = step if extent.single else step[owner]
        logits = self.decoder.step(self.sequence[owner, at], self._place(extent, owner, at))
        self.logits[: len(logits)] = logits.flatten(1)
        if not extent.single:
            used = (slice(extent.requests), slice(extent.copies))
            logits = (logits[self.copies[used]] * self.weights[used]).sum(1)
        drawn = sample(logits, self.config, self.numbers[request, step])
        wanted = self.sequence[request, step + 1]
        self.sequence[request, step + 1] = torch.where(wanted == UNKNOWN, drawn, wanted)
        step.add_(1).clamp_(max=self.steps - 1)

    def _place(self, extent: Extent, owner: Tensor, at: Tensor) -> Place:
        return Place(
            at=at,
            place=self.offset[owner] + at,
            heard=self.heard[: extent.rows],
            span=extent.span,
            memory=extent.memory,
            level=extent.level,
            even=extent.even,
        )

    def favourites(self, rows: int) -> Tensor:
        """The likeliest code of every codebook [N, K] in each of the first `rows` rows, as the last step saw it."""
        levels, bins = self.sequence.shape[2], self.decoder.model.spec.target.bins
        return self.logits[:rows, : levels * bins].unflatten(1, (levels, bins)).argmax(-1)

    def move_row(self, source: int, target: int) -> None:
        """Copy a row over another one."""
        for storage in (*self.decoder.cache, *self.decoder.memory):
            if storage:
                storage.both[target] = storage.both[source]
        self.owner[target], self.heard[target] = self.owner[source], self.heard[source]

    def move_request(self, source: int, target: int) -> None:
        """Copy a request over another one; its rows must then be told."""
        for part in (self.sequence, self.numbers, self.step, self.offset):
            part[target] = part[source]
