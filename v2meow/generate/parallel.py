"""The engine of one stage of layout parallel: all frames at once, in a few passes (SoundStorm, arXiv 2305.09636).

Level by level, a pass draws every code that is still hidden and keeps those the model is surest of; the others are
hidden again, and the next pass sees what was kept. A step is one pass for requests of one shape, whatever pass each
of them is at; other shapes take turns. The prefix attends to the codes, so nothing of it can be kept from pass to
pass: it costs its share of the places each time, a half where it has as many frames as the codes.

Legend: Q requests, R rows of guidance a request, K codebooks, T frames.
"""

import math
from collections import deque
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from v2meow.config import SamplingConfig
from v2meow.generate.guidance import GuidanceRow, repeat
from v2meow.generate.linear import Precision, lower
from v2meow.generate.request import Request, join
from v2meow.generate.sampling import random_numbers, sample
from v2meow.model.lm import TokenLM
from v2meow.model.patterns import UNKNOWN


class Pass(NamedTuple):
    """One pass: the level it draws, how many of its codes stay hidden after it, and how much chance has a say."""

    level: int
    left: int
    noise: float


def plan(known: Tensor, passes: int) -> list[Pass]:
    """The passes that fill `known` [K, T]: one for each level, the first level takes all that are left.

    A pass keeps a code at least, so that a level takes no more passes than it has unknown codes, and none where
    all is known.
    """
    unknown = (known == UNKNOWN).sum(1).tolist()
    made = []
    for level, count in enumerate(unknown):
        left = left_hidden(count, min(count, passes - len(unknown) + 1 if level == 0 else 1))
        made += [Pass(level, rest, 1 - (i + 1) / len(left)) for i, rest in enumerate(left)]
    return made


def left_hidden(count: int, passes: int) -> list[int]:
    """How many of `count` codes are hidden after each pass: the cosine schedule, rounded down, at least one fewer.

    It starts slowly, when little is seen to draw from (MaskGIT, arXiv 2202.04200, section 3.3).
    """
    left = [count]
    for i in range(1, passes):
        left.append(min(left[-1] - 1, math.floor(count * math.cos(math.pi / 2 * i / passes))))
    return [*left[1:], 0] if passes else []


def keep(logits: Tensor, codes: Tensor, config: SamplingConfig, numbers: Tensor, left: Tensor, noise: Tensor) -> Tensor:
    """Codes [Q, T] of one level with the surest of the unknown ones filled in, until `left` [Q] are unknown.

    logits [Q, T, bins]; `numbers` [Q, 2 T] are random and `noise` [Q] falls to nought. How sure the model is of a
    draw is its log-probability before temperature and filters, since these make it seem sure of all. Gumbel noise is
    added, of scale temperature x noise: by confidence alone the first codes to stay are the likeliest everywhere,
    silence above all, and the rest follows them (MaskGIT's choice temperature, annealed like there).
    """
    draws, chances = numbers.chunk(2, dim=-1)
    drawn = sample(logits, config, draws)
    sure = logits.float().log_softmax(-1).gather(-1, drawn[..., None])[..., 0]
    sure = sure - config.temperature * noise[:, None] * (-chances.log()).log()
    unknown = codes == UNKNOWN
    rank = sure.masked_fill(~unknown, torch.inf).sort(dim=-1, stable=True).indices.argsort(-1)
    return torch.where(unknown & (rank >= left[:, None]), drawn, codes)


@dataclass(eq=False)
class _Entry:
    """A request, its codes [K, T] so far, and the passes it takes."""

    ticket: int
    request: Request
    copies: list[GuidanceRow]
    codes: Tensor
    plan: list[Pass]
    step: int = 0  # of so many passes the codes are there


class ParallelEngine:
    """Decodes requests of one stage of layout parallel: `submit`, then `step` until the ticket is returned."""

    @torch.inference_mode()
    def __init__(
        self, model: TokenLM, config: SamplingConfig, *, rows: int, seconds: float, precision: Precision = "float32"
    ) -> None:
        """Takes `model` over and rounds its weights: use it through the engine only.

        `rows` limit the requests that are inside, each counted once for every copy that guidance needs; windows
        are of up to `seconds`.
        """
        assert not model.causal, "a stage that decodes step by step has an engine of its own"
        assert config.passes >= model.spec.target.levels, (config.passes, model.spec.target.levels)
        lower(model, precision)
        self.model, self.config = model.eval(), config
        self._rows, self._frames = rows, math.ceil(seconds * model.spec.target.rate)
        self._queue: deque[_Entry] = deque()
        self._inside: list[_Entry] = []  # whose turn it is stands first
        self._done: dict[int, Tensor] = {}
        self._tickets = 0

    @property
    def busy(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self._inside or self._queue or self._done)

    @property
    def load(self) -> tuple[int, int, int]:
        """Rows in use, rows there are, and requests that wait for one."""
        return self._used, self._rows, len(self._queue)

    def submit(self, request: Request) -> int:
        """Queue a request; its ticket. ValueError for one that does not fit into the engine at all."""
        copies, frames = request.rows(self.model.spec, self.config), request.known.shape[1]
        if frames > self._frames or len(copies) > self._rows:
            raise ValueError(
                f"a window of {frames} frames in {len(copies)} rows does not fit into an engine of "
                f"{self._frames} frames and {self._rows} rows"
            )
        self._tickets += 1
        passes = plan(request.known, self.config.passes)
        if passes:
            request = replace(request, given=join([request], self._device))
            codes = request.known.to(self._device)
            self._queue.append(_Entry(self._tickets, request, copies, codes, passes))
        else:
            self._done[self._tickets] = request.known
        return self._tickets

    @torch.inference_mode()
    def step(self) -> dict[int, Tensor]:
        """Let in who waits and fits, do one pass, and return the codes [K, T] of the requests that are done."""
        done, self._done = self._done, {}
        self._admit()
        if not self._inside:
            return done
        first = self._inside[0].request
        group = [entry for entry in self._inside if entry.request.alike(first)]
        others = [entry for entry in self._inside if entry not in group]
        self._pass(group)
        for entry in group:
            entry.step += 1
        done |= {entry.ticket: entry.codes.cpu() for entry in group if entry.step == len(entry.plan)}
        self._inside = others + [entry for entry in group if entry.step < len(entry.plan)]
        return done

    def frames(self, ticket: int) -> int:
        """How many leading frames of a request are whole."""
        return self.peek(ticket).shape[1]

    @torch.inference_mode()
    def peek(self, ticket: int) -> Tensor:
        """The codes [K, t] of the first frames of a request, as far as they are whole; none while it waits.

        Frames become whole in the last level only: before, these are the frames that were known from the start.
        """
        entry = next((entry for entry in self._inside if entry.ticket == ticket), None)
        if entry is None:
            return torch.empty(self.model.spec.target.levels, 0, dtype=torch.int64)
        codes = entry.codes.cpu()
        whole = (codes != UNKNOWN).all(0).cumprod(0).sum()
        return codes[:, :whole]

    def cancel(self, ticket: int) -> None:
        """Forget a request, at once; one that is unknown or done is no error."""
        self._done.pop(ticket, None)
        self._queue = deque(entry for entry in self._queue if entry.ticket != ticket)
        self._inside = [entry for entry in self._inside if entry.ticket != ticket]

    # ---- inside

    @property
    def _device(self) -> torch.device:
        return self.model.norm.weight.device

    @property
    def _used(self) -> int:
        return sum(len(entry.copies) for entry in self._inside)

    def _admit(self) -> None:
        """First come, first in: nobody who needs more rows is overtaken for ever."""
        while self._queue and self._used + len(self._queue[0].copies) <= self._rows:
            self._inside.append(self._queue.popleft())

    def _pass(self, group: list[_Entry]) -> None:
        """The next pass of each of these requests, which are alike."""
        now = [entry.plan[entry.step] for entry in group]
        frames = group[0].codes.shape[1]
        numbers = torch.cat(
            [random_numbers(entry.request.seed, torch.tensor([entry.step]), 2 * frames) for entry in group]
        )
        level, left, noise = (
            torch.tensor(values, device=self._device)
            for values in (
                [each.level for each in now],
                [each.left for each in now],
                [each.noise for each in now],
            )
        )
        codes, every = torch.stack([entry.codes for entry in group]), torch.arange(len(group), device=self._device)
        logits = self._logits(group, codes, level)
        codes[every, level] = keep(logits, codes[every, level], self.config, numbers.to(self._device), left, noise)
        for entry, filled in zip(group, codes, strict=True):
            entry.codes = filled

    def _logits(self, group: list[_Entry], codes: Tensor, level: Tensor) -> Tensor:
        """Guided logits [Q, T, bins] of one level [Q] each, from codes [Q, K, T] of which the unknown are hidden."""
        count, copies = len(group), group[0].copies
        given = repeat(join([entry.request for entry in group], self._device), copies)
        repeated = codes.repeat_interleave(len(copies), 0)
        logits = self.model(repeated, given, repeated == UNKNOWN).unflatten(0, (count, len(copies)))
        weights = torch.tensor([copy.weight for copy in copies], device=self._device)
        every = torch.arange(count, device=self._device)
        return torch.einsum("r,qrtc->qtc", weights, logits[every, :, :, level].float())
