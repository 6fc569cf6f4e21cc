"""One piece of music in the making: what is known of its ids and codes, and what can be asked for next.

Windows of the three stages become due as soon as what they depend on is there, so that later stages work while
earlier ones still do. It knows nothing of models: requests go out, codes come in.

Legend: K levels, T frames, V visual frames.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from v2meow.config import STAGES, Recipe, StageName
from v2meow.generate.request import Request
from v2meow.generate.windows import Window, advance, chunk_ends
from v2meow.model.lm import Conditions
from v2meow.model.patterns import UNKNOWN


@dataclass(frozen=True, kw_only=True, eq=False)
class Brief:
    """What is asked for: features [V, width] of each extractor, a music-text vector [width] or None, and a seed.

    `ids` [t] and `codes` [K, t] are those of music that the piece begins with, as far as it is given.
    """

    visual: tuple[Tensor, ...]
    joint: Tensor | None
    seconds: float
    seed: int
    ids: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    codes: Tensor | None = None


class Piece:
    """The state of one piece. `due` tells what to ask the stages for; `deliver` takes what they made.

    Of a piece that is `looking`, the brief has the first features only; windows wait until `see` has brought theirs.
    """

    def __init__(self, brief: Brief, recipe: Recipe, *, looking: bool = False) -> None:
        self.brief, self.recipe, self._looking = brief, recipe, looking
        ids = math.ceil(brief.seconds * recipe.semantic_ids.rate)
        self.ratio = recipe.codec.rate // recipe.semantic_ids.rate
        kc, frames = recipe.stages.coarse_levels, ids * self.ratio
        self.tracks: dict[StageName, Tensor] = {
            "semantic": torch.full((1, ids), UNKNOWN),
            "coarse": torch.full((kc, frames), UNKNOWN),
            "fine": torch.full((recipe.codec.levels - kc, frames), UNKNOWN),
        }
        if brief.codes is not None:
            given = {"semantic": brief.ids[None], "coarse": brief.codes[:kc], "fine": brief.codes[kc:]}
            for name, track in self.tracks.items():
                count = min(given[name].shape[1], track.shape[1])
                track[:, :count] = given[name][:, :count]
        self.ready: dict[StageName, int] = {name: _known(track) for name, track in self.tracks.items()}
        self.waiting = {name: self.windows(name) for name in STAGES}
        self.chunk_ends = chunk_ends(self.frames, recipe.codec.rate)
        self.heard = 0  # codec frames whose sound was handed out

    @property
    def frames(self) -> int:
        """Codec frames in all."""
        return self.tracks["coarse"].shape[1]

    @property
    def codes(self) -> Tensor:
        """Codes [K, T] of all levels, those of the first `ready["fine"]` frames whole."""
        return torch.cat((self.tracks["coarse"], self.tracks["fine"]))

    @property
    def chunk_end(self) -> int:
        """Where the chunk of sound ends that comes next."""
        return next(end for end in self.chunk_ends if end > self.heard)

    def windows(self, stage: StageName) -> list[Window]:
        """All windows of a stage, in frames of what it makes; the fine stage's context is in its coarse codes."""
        rate = self.recipe.semantic_ids.rate if stage == "semantic" else self.recipe.codec.rate
        context = 0.0 if stage == "fine" else self.recipe.generate.context_seconds
        seconds, grid = self.recipe.stage(stage).window_seconds, self.recipe.semantic_ids.rate
        total, window, kept = self.tracks["semantic"].shape[1], round(seconds * grid), round(context * grid)
        step = rate // grid  # windows begin where an id begins
        return [Window(*(step * place for place in one)) for one in advance(total, window, kept)]

    def see(self, visual: tuple[Tensor, ...], *, last: bool) -> None:
        """Take the next features [V, width] of each extractor; after the `last` there are no more."""
        seen = tuple(torch.cat(parts) for parts in zip(self.brief.visual, visual, strict=True))
        self.brief, self._looking = replace(self.brief, visual=seen), not last

    def due(self) -> Iterator[tuple[StageName, Window, Request]]:
        """The windows whose conditions and context are there and that were not asked for yet."""
        for stage in STAGES:
            while self.waiting[stage] and self._can_start(stage, self.waiting[stage][0]):
                window = self.waiting[stage].pop(0)
                yield stage, window, self._request(stage, window)

    def needs(self, stage: StageName) -> int | None:
        """How many frames of `stage` the next window of the stage after it waits for; None where none does."""
        if stage == "semantic":
            return self.waiting["coarse"][0].end // self.ratio if self.waiting["coarse"] else None
        return self.waiting["fine"][0].end if stage == "coarse" and self.waiting["fine"] else None

    def deliver(self, stage: StageName, window: Window, codes: Tensor) -> None:
        """Take the first frames, or all, of a window's codes [K, t]."""
        self.tracks[stage][:, window.start : window.start + codes.shape[1]] = codes
        self.ready[stage] = _known(self.tracks[stage])

    def _can_start(self, stage: StageName, window: Window) -> bool:
        behind = window.fresh > window.start and self.ready[stage] < window.fresh
        below = {
            "semantic": True,
            "coarse": self.ready["semantic"] * self.ratio >= window.end,
            "fine": self.ready["coarse"] >= window.end,
        }[stage]
        return below and not behind and not self._is_unseen(stage, window)

    def _is_unseen(self, stage: StageName, window: Window) -> bool:
        """Whether a window is made from pictures that are still to come."""
        if not self._looking or stage == "fine" or (stage == "coarse" and not self.recipe.stages.coarse_sees_video):
            return False
        rates = (extractor.rate for extractor in self.recipe.visual)
        seen = min(len(features) / rate for features, rate in zip(self.brief.visual, rates, strict=True))
        return window.end / self._rate(stage) > seen

    def _rate(self, stage: StageName) -> int:
        """Frames of what a stage makes, a second."""
        return self.recipe.semantic_ids.rate if stage == "semantic" else self.recipe.codec.rate

    def _request(self, stage: StageName, window: Window) -> Request:
        known = self.tracks[stage][:, window.start : window.end].clone()
        return Request(self.conditions(stage, window), known, self._seed(stage, window))

    def conditions(self, stage: StageName, window: Window) -> Conditions:
        """What a window of a stage is made from, as one row."""
        if stage == "fine":
            return Conditions(prefix=self.tracks["coarse"][None, :, window.start : window.end])
        rate = self._rate(stage)
        visual = self._visual(window.start / rate, window.end / rate)
        if stage == "semantic":
            return Conditions(visual=visual, joint=None if self.brief.joint is None else self.brief.joint[None])
        ids = self.tracks["semantic"][None, :, window.start // self.ratio : window.end // self.ratio]
        return Conditions(visual=visual if self.recipe.stages.coarse_sees_video else (), prefix=ids)

    def _visual(self, start: float, stop: float) -> tuple[Tensor, ...]:
        """Features [1, V, width] on screen from `start` to `stop` seconds; at least one frame of each extractor."""
        cuts = []
        for features, extractor in zip(self.brief.visual, self.recipe.visual, strict=True):
            first = min(round(start * extractor.rate), len(features) - 1)
            cuts.append(features[None, first : max(first + 1, round(stop * extractor.rate))])
        return tuple(cuts)

    def _seed(self, stage: StageName, window: Window) -> int:
        """An independent stream of random numbers for each piece, stage and window: 63 bits."""
        key = hashlib.sha256(f"{self.brief.seed}/{stage}/{window.start}/{window.fresh}".encode()).digest()
        return int.from_bytes(key[:8]) >> 1


def _known(track: Tensor) -> int:
    """Leading frames of a track [K, T] whose codes are all known."""
    unknown = (track == UNKNOWN).any(0).nonzero()
    return int(unknown[0]) if len(unknown) else track.shape[1]
