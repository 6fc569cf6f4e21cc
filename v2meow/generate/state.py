"""Everything that decoding carries from step to step, as tensors that are allocated once.

Rows of the cache are copies of requests (for guidance); both are kept without gaps, so that a step is a slice.
Legend: Q requests, N rows, K codebooks, S steps, M memory.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from v2meow.config import SamplingConfig
from v2meow.generate.sampling import sample
from v2meow.model.lm import TokenLM
from v2meow.model.patterns import UNKNOWN
from v2meow.model.transformer import KeyValues, Step, rotary


@dataclass(frozen=True, kw_only=True)
class Extent:
    """What a step covers: the first `requests` requests, which have the first `rows` rows.

    No row has come to place `span` or has more than `memory` places of memory. `level`: all come to the last place
    before `span` now; `even`: all have that much memory; `single`: each request has one row, that of its own number.
    """

    requests: int
    rows: int
    span: int
    memory: int
    level: bool
    even: bool
    single: bool


class State:
    """`rows` of cache for windows of up to `seconds`, and as many requests at most."""

    def __init__(self, model: TokenLM, config: SamplingConfig, rows: int, seconds: float) -> None:
        spec, device = model.spec, model.norm.weight.device
        frames = math.ceil(seconds * spec.target.rate)
        self.model, self.config, self.rows, self.steps = model, config, rows, model.layout(frames).steps
        # A window may begin between two pictures, so that it shows one more than its length says.
        pictures = sum(math.ceil(seconds * visual.rate) + 1 for visual in spec.visual)
        prefix = spec.prefix and math.ceil(seconds * spec.prefix.rate) + pictures
        self.capacity = (prefix or 0) + self.steps
        self.caches = model.caches(rows, self.capacity)
        self.memory: list[KeyValues | None] = [None for _ in self.caches]
        if spec.encoder_layers:
            self.memory = [*model.caches(rows, pictures + 1)]
        integers = {"dtype": torch.int64, "device": device}
        self.sequence = torch.full((rows, self.steps + 1, spec.target.levels), model.empty, **integers)
        self.keys = torch.zeros(rows, self.steps, **integers)  # of each step's random numbers
        self.step, self.offset = (torch.zeros(rows, **integers) for _ in range(2))
        self.owner = torch.zeros(rows, **integers)  # the request of each row
        self.heard = torch.zeros(rows, **integers)  # how much of its memory is filled
        self.combine = torch.zeros(rows, rows, device=device)  # weight of each row in each request's logits
        self._places = torch.arange(max(self.capacity, pictures + 1), device=device)
        self._counting = torch.arange(rows, device=device)
        times = torch.arange(self.steps, device=device) * model.step_seconds
        self._cos, self._sin = rotary(times, model.head_width)

    def run(self, extent: Extent) -> None:
        """One step: the next code of every codebook, for each request."""
        step, owner = self.step[: extent.requests], self.owner[: extent.rows]
        at = step[owner]
        place = self.offset[owner] + at
        here = Step(place, extent.span, None if extent.level else self._reach(place + 1, extent.span))
        mask = None if extent.even else self._reach(self.heard[: extent.rows], extent.memory)
        inputs, angles = self.sequence[owner, at], (self._cos[at][:, None, None], self._sin[at][:, None, None])
        logits = self.model.advance(inputs, angles, here, self.caches, self._remembered(extent), mask).float()
        if not extent.single:
            weights = self.combine[: extent.requests, : extent.rows]
            logits = (weights @ logits.flatten(1)).view(extent.requests, *logits.shape[1:])
        request = self._counting[: extent.requests]
        drawn = sample(logits, self.config, self.keys[request, step])
        wanted = self.sequence[request, step + 1]
        self.sequence[request, step + 1] = torch.where(wanted == UNKNOWN, drawn, wanted)
        step.add_(1).clamp_(max=self.steps - 1)

    def _remembered(self, extent: Extent) -> list[KeyValues | None]:
        """The memory of the rows in use."""
        used = (slice(extent.rows), slice(None), slice(extent.memory))
        return [part and KeyValues(part.keys[used], part.values[used]) for part in self.memory]

    def _reach(self, length: Tensor, span: int) -> Tensor:
        """Additive mask [n, 1, 1, span]: the first `length` [n] places may be seen."""
        hidden = self._places[:span] >= length[:, None]
        reach = torch.zeros(hidden.shape, device=hidden.device, dtype=self.caches[0].keys.dtype)
        return reach.masked_fill_(hidden, -torch.inf)[:, None, None]

    def move_row(self, source: int, target: int) -> None:
        """Copy a row over another one."""
        for storage in (*self.caches, *self.memory):
            if storage:
                storage.keys[target] = storage.keys[source]
                storage.values[target] = storage.values[source]
        self.owner[target], self.heard[target] = self.owner[source], self.heard[source]

    def move_request(self, source: int, target: int) -> None:
        """Copy a request over another one; its rows must then be told."""
        for part in (self.sequence, self.keys, self.step, self.offset):
            part[target] = part[source]
