"""One generation from its order to its files: what is told while it runs, and what is kept.

Legend: a take is one of several pieces for the same video, with seeds one after the other.
"""

import asyncio
import math
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from serving.editions import Edition
from serving.performance import Parts, Performance, Progress, Seen
from serving.spool import INPUT, Record, Spool
from v2meow.config import STAGES, Recipe
from v2meow.files import write_json
from v2meow.generate.piece import Brief, Piece
from v2meow.generate.provenance import Provenance, comment, provenance
from v2meow.generate.watermark import Marker, payload_of
from v2meow.media import write_wav


@dataclass(frozen=True)
class Audio:
    """The next samples, float32 [n], of a take (from 1)."""

    take: int
    samples: Tensor


@dataclass(frozen=True)
class Advance:
    """How far a take's stage is: a share."""

    take: int
    stage: str
    share: float


@dataclass(eq=False)
class _Take:
    number: int
    piece: Piece
    chunks: list[Tensor] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))


class Generation:
    """`prepare`, then iterate over `play` to its end: the record is then `succeeded` and its files are there.

    With a `secret` the music is marked.
    """

    def __init__(
        self, record: Record, spool: Spool, parts: Parts, edition: Edition, recipe: Recipe, secret: bytes | None
    ) -> None:
        self.record, self.recipe, self._secret = record, recipe, secret
        self._spool, self._parts, self._edition = spool, parts, edition
        self._takes: list[_Take] = []
        self._looking: AsyncGenerator[Seen] | None = None
        record.model = {"label": edition.label, "digest": edition.digest}

    @property
    def video(self) -> Path:
        """The file that is scored."""
        return self._spool.place(self.record.id) / INPUT

    async def prepare(self, max_seconds: float) -> None:
        """See the video and understand the prompt. MediaError, PromptError: what a person can mend shows here."""
        order = self.record.order
        wanted = max_seconds if order.seconds is None else order.seconds
        joint = None if order.prompt is None else await self._parts.embed(self._edition, order.prompt)
        self._looking = self._parts.see(self._edition, self.video, wanted)
        seen = await anext(self._looking)
        self._context = await self._parts.context(self._edition)
        self.record.seconds = seen.seconds
        for number in range(1, order.takes + 1):
            brief = Brief(visual=seen.visual, joint=joint, seconds=seen.seconds, seed=order.seed + number - 1)
            self._takes.append(_Take(number, Piece(brief, self.recipe, looking=not seen.last)))
        self.record.status = "running"
        self._save()

    async def play(self) -> AsyncGenerator[Audio | Advance]:
        """What happens, take by take mixed. Leaving it gives up what is under way."""
        news: asyncio.Queue[Audio | Advance | Exception | None] = asyncio.Queue()
        played = [Performance(take.piece, self._edition, self._parts, self._context) for take in self._takes]
        tasks = [asyncio.ensure_future(self._perform(*one, news)) for one in zip(self._takes, played, strict=True)]
        tasks.append(asyncio.ensure_future(self._look(played)))
        try:
            left = len(played)
            while left:
                item = await news.get()
                if isinstance(item, Exception):
                    raise item
                if item is None:
                    left -= 1
                    continue
                self._note(item)
                yield item
            await self._finish()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def leave(self) -> None:
        """Stop looking at the video of a generation that was prepared and is not played, or no longer."""
        if self._looking is not None:
            await self._looking.aclose()

    async def _look(self, played: list[Performance]) -> None:
        """See the rest of the video while the music for its beginning is made."""
        assert self._looking is not None  # after `prepare`
        try:
            async for seen in self._looking:
                for performance in played:
                    performance.see(seen)
        except Exception as error:
            for performance in played:
                performance.see(error)

    async def _perform(
        self, take: _Take, performance: Performance, news: "asyncio.Queue[Audio | Advance | Exception | None]"
    ) -> None:
        marker = self._marker()
        try:
            async for item in performance:
                if isinstance(item, Progress):
                    news.put_nowait(Advance(take.number, item.stage, item.done / item.total))
                elif marker is None:
                    news.put_nowait(Audio(take.number, item))
                else:
                    marked = await asyncio.to_thread(marker.add, item.numpy())
                    news.put_nowait(Audio(take.number, torch.from_numpy(marked)))
            if marker is not None:
                news.put_nowait(Audio(take.number, torch.from_numpy(marker.end())))
            news.put_nowait(None)
        except Exception as error:
            news.put_nowait(error)

    def _marker(self) -> Marker | None:
        if self._secret is None:
            return None
        return Marker(self._secret, payload_of(self._edition.digest), self.recipe.codec.sample_rate)

    def _note(self, item: Audio | Advance) -> None:
        take = self._takes[item.take - 1]
        if isinstance(item, Audio):
            take.chunks.append(item.samples)
            return
        take.shares[item.stage] = item.share
        shares = {stage: sum(one.shares[stage] for one in self._takes) / len(self._takes) for stage in STAGES}
        self.record.progress = {stage: round(share, 3) for stage, share in shares.items()}

    async def _finish(self) -> None:
        """Rank the takes, write them, and say so in the record."""
        for take in self._takes:
            self.record.takes.append(await self._figures(take))
            await asyncio.to_thread(self._write, take)
        self.record.takes.sort(key=lambda figures: -figures.get("agreement", 0.0))
        self.record.status = "succeeded"
        self._save()

    async def _figures(self, take: _Take) -> dict[str, float | int]:
        sound = torch.cat(take.chunks)
        power = float(sound.double().square().mean())
        figures: dict[str, float | int] = {
            "number": take.number,
            "seed": take.piece.brief.seed,
            "level_dbfs": round(10 * math.log10(power + 1e-12), 1),
        }
        if len(self._takes) > 1:
            ids = take.piece.tracks["semantic"]
            figures["agreement"] = round(await self._parts.agreement(self._edition, take.piece.brief, ids), 4)
        return figures

    def _write(self, take: _Take) -> None:
        if not self._spool.keeps(self.record.id):
            raise FileNotFoundError(f"generation {self.record.id} was forgotten")
        place = self._spool.place(self.record.id)
        about = self.provenance(take.number)
        wav = place / f"take-{take.number}.wav"
        write_wav(wav, waveform(take.chunks), self.recipe.codec.sample_rate, comment(about))
        write_json(wav.with_suffix(".json"), about)

    def provenance(self, take: int = 1) -> Provenance:
        """Where the music of a take comes from."""
        order, edition = self.record.order, self._edition
        return provenance(
            model=edition.label,
            bundle=edition.digest,
            data=edition.data,
            seed=order.seed + take - 1,
            video=self.record.input["sha256"],
            prompt=order.prompt,
        )

    def _save(self) -> None:
        self._spool.save(self.record)


def waveform(chunks: list[Tensor]) -> np.ndarray:
    """Float32 [T] of what was told of a take."""
    return np.concatenate(list(chain([np.zeros(0, np.float32)], (chunk.numpy() for chunk in chunks))))
