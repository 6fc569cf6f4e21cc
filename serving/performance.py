"""One piece played by parts that may be anywhere: windows go out as they become due, sound comes back in order.

The same order of things as v2meow.generate.pipeline, where all parts are in one process and take turns.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from serving.editions import Edition
from v2meow.config import StageName
from v2meow.generate.files import faded, fading
from v2meow.generate.piece import Brief, Piece
from v2meow.generate.request import Request
from v2meow.generate.windows import Window


@dataclass(frozen=True)
class Seen:
    """The next features [V, width] of each extractor for the first `seconds` of a video; whether they are the last."""

    visual: tuple[Tensor, ...]
    seconds: float
    last: bool = True


class Parts(Protocol):
    """The parts of the cascade, wherever they are. Every method raises what the part raises."""

    def see(self, edition: Edition, video: Path, seconds: float | None) -> AsyncGenerator[Seen]:
        """Features of the first `seconds`, or of all, of a video file, as they are made. MediaError for one that
        cannot be used, which may show late."""
        ...

    async def embed(self, edition: Edition, prompt: str) -> Tensor:
        """The music-text vector [width]. PromptError for a prompt that cannot be followed."""
        ...

    def decode(
        self, edition: Edition, stage: StageName, request: Request, milestones: list[int]
    ) -> AsyncIterator[Tensor]:
        """As `Batcher.decode`."""
        ...

    async def context(self, edition: Edition) -> int:
        """Frames after a piece of sound that the codec needs to decode it."""
        ...

    async def sound(self, edition: Edition, codes: Tensor, first: int, end: int) -> Tensor:
        """Waveform of frames `first` … `end` - 1 of codes [K, T]."""
        ...

    async def agreement(self, edition: Edition, brief: Brief, ids: Tensor) -> float:
        """How much likelier the picture makes semantic ids [1, t], in nats an id."""
        ...


@dataclass(frozen=True)
class Progress:
    """`done` of `total` frames of a stage are there."""

    stage: StageName
    done: int
    total: int


@dataclass(frozen=True)
class _Codes:
    stage: StageName
    window: Window
    codes: Tensor


_News = _Codes | Seen | Tensor | Exception


class Performance:
    """One piece and the parts that play it. Iterate over it once: Progress, and sound float32 [n] in order."""

    def __init__(self, piece: Piece, edition: Edition, parts: Parts, context: int) -> None:
        self.piece = piece
        self._edition, self._parts, self._context = edition, parts, context
        self._news: asyncio.Queue[_News] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening = False  # whether sound is being decoded

    async def __aiter__(self) -> AsyncGenerator[Progress | Tensor]:
        """Leaving it frees what the piece holds in the parts."""
        piece, rate = self.piece, self.piece.recipe.codec.sample_rate
        last = torch.empty(0)
        try:
            while piece.heard < piece.frames:
                for stage, window, request in piece.due():
                    self._start(partial(self._play, stage, window, request))
                self._listen()
                news = await self._news.get()
                if isinstance(news, Exception):
                    raise news
                if isinstance(news, Seen):
                    piece.see(news.visual, last=news.last)
                elif isinstance(news, _Codes):
                    piece.deliver(news.stage, news.window, news.codes)
                    yield Progress(news.stage, piece.ready[news.stage], piece.tracks[news.stage].shape[1])
                else:
                    self._listening, piece.heard = False, self._end
                    last = torch.cat((last, news))
                    sure = max(0, len(last) - fading(rate))
                    if sure:
                        yield last[:sure]
                    last = last[sure:]
            yield faded(last, rate)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def see(self, seen: Seen | Exception) -> None:
        """Take the next features of a piece that is looking, or why there are none."""
        self._news.put_nowait(seen)

    def _start(self, work: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.ensure_future(self._told(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _told(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:
            self._news.put_nowait(error)

    async def _play(self, stage: StageName, window: Window, request: Request) -> None:
        milestones = self._milestones(stage, window)
        async for codes in self._parts.decode(self._edition, stage, request, milestones):
            self._news.put_nowait(_Codes(stage, window, codes))

    def _listen(self) -> None:
        """Have the next chunk decoded, if its codes are there and no other is under way."""
        piece = self.piece
        if self._listening or piece.heard == piece.frames:
            return
        self._end = piece.chunk_end
        needed = min(piece.frames, self._end + self._context)
        if piece.ready["fine"] >= needed:
            self._listening = True
            self._start(partial(self._sound, piece.heard, self._end, needed))

    async def _sound(self, first: int, end: int, needed: int) -> None:
        recipe = self.piece.recipe
        sound = await self._parts.sound(self._edition, self.piece.codes[:, :needed], first, end)
        samples = round(self.piece.brief.seconds * recipe.codec.sample_rate) - first * recipe.codec.hop
        self._news.put_nowait(sound[:samples])

    def _milestones(self, stage: StageName, window: Window) -> list[int]:
        """Frames of a window that somebody waits for before all of it is there."""
        piece = self.piece
        if stage == "semantic":
            ends = [later.end // piece.ratio for later in piece.windows("coarse")]
        elif stage == "coarse":
            ends = [later.end for later in piece.windows("fine")]
        else:
            ends = [end + self._context for end in piece.chunk_ends[:-1]]
        return sorted({end - window.start for end in ends if window.fresh < end < window.end})


async def whole(looking: AsyncIterator[Seen]) -> Seen:
    """All that is seen, at once."""
    parts = [seen async for seen in looking]
    return Seen(tuple(map(torch.cat, zip(*(seen.visual for seen in parts), strict=True))), parts[0].seconds)
