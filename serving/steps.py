"""The steps of the cascade, each alone or all at once, from tensors to tensors. Knows no protocol and no server.

Steps that are called one after the other make the very music of the cascade: the same windows, seeds and engines, and
the same mark where there is a secret.
"""

import asyncio
import hashlib
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from serving.editions import Edition
from serving.local import LocalParts
from serving.performance import Performance, Seen, whole
from serving.settings import Limits
from serving.tensors import Contract, StepName, Tensors, contracts, invalid, number
from v2meow.config import STAGES, Recipe, StageName
from v2meow.generate.parts import bundle_recipe
from v2meow.generate.piece import Brief, Piece
from v2meow.generate.provenance import SOFTWARE, Provenance, provenance
from v2meow.generate.request import Request
from v2meow.generate.watermark import marked
from v2meow.generate.windows import Window

_PROMPT = 1000  # characters
_HANDED_ON = ("seed", "video", "prompt", "model", "data_version")  # of a provenance, from step to step
_BELOW: dict[StageName, tuple[StageName, ...]] = {"semantic": (), "coarse": ("semantic",), "fine": ("coarse",)}

Part = TypeVar("Part")


@dataclass(frozen=True)
class Answer:
    """What a step made, and where it comes from."""

    tensors: Tensors
    about: Provenance


class Steps:
    """The steps of one bundle. `run` one of them; Problem, MediaError or PromptError for what a request has wrong.

    With a `secret` the music is marked.
    """

    def __init__(self, parts: LocalParts, edition: Edition, limits: Limits, secret: bytes | None = None) -> None:
        self.parts, self.edition, self.limits, self._secret = parts, edition, limits, secret
        self.recipe: Recipe = bundle_recipe(Path(edition.folder))
        self.contracts: dict[StepName, Contract] = contracts(Path(edition.folder), self.recipe)
        self._steps: dict[StepName, Callable[[Tensors, Provenance], Awaitable[Answer]]] = {
            "cascade": self._cascade,
            "visual": self._visual,
            "semantic": lambda given, about: self._stage("semantic", given, about),
            "coarse": lambda given, about: self._stage("coarse", given, about),
            "fine": lambda given, about: self._stage("fine", given, about),
            "codec": self._codec,
        }

    def takes(self, given: Tensors) -> int:
        """How many pieces a request asks for. Problem 400 for too many."""
        takes = int(given["takes"][0]) if "takes" in given else 1
        if not 1 <= takes <= self.limits.max_takes:
            raise invalid(f"takes: 1 to {self.limits.max_takes} are made at once")
        return takes

    def rows(self, place: int, seconds: float) -> int:
        """Rows of features that extractor number `place` makes of so many seconds: whole clips are read."""
        clip = self.recipe.data.clip_seconds
        return math.ceil(seconds / clip) * round(clip * self.recipe.visual[place].rate)

    async def run(self, step: StepName, given: Tensors, parameters: Mapping[str, Any]) -> Answer:
        """Do a step; `parameters` are those of the request, with the provenance that steps before have told."""
        made_with = parameters.get("bundle", self.edition.digest)
        if made_with != self.edition.digest:
            raise invalid(f"bundle: the steps before used {str(made_with)[:12]}, this is {self.edition.digest[:12]}")
        known = {key: parameters[key] for key in _HANDED_ON if isinstance(parameters.get(key), (str, int))}
        own = {"software": SOFTWARE, "generated": "by a machine", "bundle": self.edition.digest}
        return await self._steps[step](given, own | known)

    # ---- the whole

    async def _cascade(self, given: Tensors, _: Provenance) -> Answer:
        seen, joint, seed, about = await self._asked(given, self.takes(given))
        pieces = [
            Piece(Brief(visual=seen.visual, joint=joint, seconds=seen.seconds, seed=seed + take), self.recipe)
            for take in range(self.takes(given))
        ]
        sound = await _together([self._performed(piece) for piece in pieces])
        tensors = self._audio(torch.stack(sound))
        if len(pieces) > 1:
            ranks = [self.parts.agreement(self.edition, one.brief, one.tracks["semantic"]) for one in pieces]
            tensors["agreement"] = np.array(await _together(ranks), np.float64)
        return Answer(tensors, about)

    async def _performed(self, piece: Piece) -> Tensor:
        """The sound [samples] of a piece, marked, with whatever of it is still to be made."""
        context = await self.parts.context(self.edition)
        chunks = [
            item async for item in Performance(piece, self.edition, self.parts, context) if isinstance(item, Tensor)
        ]
        sound = torch.cat(chunks)
        if self._secret is None:
            return sound
        rate = self.recipe.codec.sample_rate
        return torch.from_numpy(await asyncio.to_thread(marked, sound.numpy(), self._secret, self.edition.digest, rate))

    def _audio(self, sound: Tensor) -> Tensors:
        rate = np.array([self.recipe.codec.sample_rate], np.int32)
        return {"audio": sound.numpy().astype(np.float32, copy=False), "sample_rate": rate}

    # ---- step by step

    async def _visual(self, given: Tensors, _: Provenance) -> Answer:
        seen, joint, seed, about = await self._asked(given, takes=1)
        tensors = {f"visual.{place}": features.numpy() for place, features in enumerate(seen.visual)}
        tensors |= {} if joint is None else {"joint": joint.numpy()}
        return Answer(tensors | {"seed": np.array([seed]), "seconds": np.array([seen.seconds])}, about)

    async def _stage(self, stage: StageName, given: Tensors, about: Provenance) -> Answer:
        piece = self._begun(given, _BELOW[stage])
        await self._played(piece, stage)
        passed = {spec.name for spec in self.contracts[stage].outputs} & given.keys()
        made = {stage: piece.tracks[stage].numpy()}
        return Answer({name: given[name] for name in passed} | made, about)

    async def _codec(self, given: Tensors, about: Provenance) -> Answer:
        piece = self._begun(given, ("coarse", "fine"))
        piece.waiting = {stage: [] for stage in STAGES}
        return Answer(self._audio((await self._performed(piece))[None]), about)

    def _begun(self, given: Tensors, below: tuple[StageName, ...]) -> Piece:
        """A piece of which the tracks `below` are there."""
        seconds = self._seconds(given)
        assert seconds is not None  # the contract says so
        brief = Brief(visual=self._features(given, seconds), joint=_joint(given), seconds=seconds, seed=_seed(given))
        piece = Piece(brief, self.recipe)
        for stage in below:
            total, codes = piece.tracks[stage].shape[1], given[stage]
            if codes.shape[1] != total:
                raise invalid(f"{stage}: {codes.shape[1]} frames, but {seconds:g} s have {total}")
            piece.deliver(stage, Window(0, total, 0), torch.from_numpy(codes))
        return piece

    async def _played(self, piece: Piece, stage: StageName) -> None:
        """Let `stage` alone make its track, window by window; those that do not wait for each other at once."""
        piece.waiting = {name: piece.waiting[name] if name == stage else [] for name in STAGES}
        tasks: set[asyncio.Task[tuple[Window, Tensor]]] = set()
        try:
            while piece.ready[stage] < piece.tracks[stage].shape[1]:
                tasks |= {asyncio.ensure_future(self._window(*due)) for due in piece.due()}
                done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    piece.deliver(stage, *task.result())
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _window(self, stage: StageName, window: Window, request: Request) -> tuple[Window, Tensor]:
        codes = [codes async for codes in self.parts.decode(self.edition, stage, request, [])]
        return window, codes[-1]

    # ---- what is given

    async def _asked(self, given: Tensors, takes: int) -> tuple[Seen, Tensor | None, int, Provenance]:
        """What a person asks for, seen and understood: the picture, the words [width], the seed."""
        video, seed, prompt = given["video"][0], _seed(given, takes), _prompt(given)
        wanted = self._seconds(given)
        joint = None if prompt is None else await self.parts.embed(self.edition, prompt)
        wanted = self.limits.max_seconds if wanted is None else wanted
        seen = await whole(self.parts.visual.see(self.edition, video, wanted))
        about = provenance(
            model=self.edition.label,
            bundle=self.edition.digest,
            data=self.edition.data,
            seed=seed,
            video=hashlib.sha256(video).hexdigest(),
            prompt=prompt,
        )
        return seen, joint, seed, about

    def _seconds(self, given: Tensors) -> float | None:
        seconds = number(given, "seconds")
        if seconds is not None and not 0.0 < seconds <= self.limits.max_seconds:
            raise invalid(f"seconds: above 0, and at most {self.limits.max_seconds:g} are made")
        return seconds

    def _features(self, given: Tensors, seconds: float) -> tuple[Tensor, ...]:
        """Features [V, width] of each extractor. Problem 400 for other numbers of rows than a video gives."""
        made = []
        for place in range(len(self.recipe.visual)):
            name, rows = f"visual.{place}", self.rows(place, seconds)
            if name in given and len(given[name]) != rows:
                raise invalid(f"{name}: {len(given[name])} rows, but {seconds:g} s have {rows}")
            made.append(torch.from_numpy(given[name]) if name in given else torch.zeros(1, 0))  # which nobody looks at
        return tuple(made)


def _joint(given: Tensors) -> Tensor | None:
    return torch.from_numpy(given["joint"]) if "joint" in given else None


def _seed(given: Tensors, takes: int = 1) -> int:
    seed = int(given["seed"][0]) if "seed" in given else 0
    if not 0 <= seed <= (1 << 63) - takes:
        raise invalid("seed: 0 to 2^63 - 1, for all takes")
    return seed


def _prompt(given: Tensors) -> str | None:
    if "prompt" not in given:
        return None
    try:
        prompt = given["prompt"][0].decode()
    except UnicodeDecodeError:
        raise invalid("prompt: it is not UTF-8") from None
    if len(prompt) > _PROMPT:
        raise invalid(f"prompt: at most {_PROMPT} characters")
    return prompt


async def _together(works: Sequence[Coroutine[Any, Any, Part]]) -> list[Part]:
    """The results of all; the first error ends the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
