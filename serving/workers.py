"""What the processes of the service do, one class a part of the cascade. Knows nothing of Ray, KServe or HTTP.

Every method names the edition, so that several bundles are served side by side and a request never mixes them; the
parts of `room` bundles stay loaded.
"""

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from serving.batcher import Batcher, Load
from serving.editions import Edition, Shelf
from serving.performance import Seen
from v2meow.bundle import BundleError
from v2meow.config import Recipe, StageName
from v2meow.encoders.codec import Codec, load_codec
from v2meow.generate.files import features_by_clip
from v2meow.generate.parts import StageEngine, TextTower, stage_engine
from v2meow.generate.piece import Brief, Piece
from v2meow.generate.request import Request
from v2meow.generate.takes import agreement
from v2meow.media import Reader


class Worker:
    """What all of them have: a shelf with their part of each edition."""

    _shelf: Shelf[Any]

    async def warm(self, editions: Iterable[Edition]) -> None:
        """Load these beforehand, as far as there is room."""
        await self._shelf.warm(editions)


class VisualWorker(Worker):
    """Pictures of a video to features, one video at a time; files are decoded in a bounded child process."""

    def __init__(self, room: int) -> None:
        self._thread = ThreadPoolExecutor(1, "visual")  # a reader is for one at a time, those who left included
        self._shelf: Shelf[tuple[Recipe, Reader]] = Shelf(
            lambda _, recipe: (recipe, Reader(recipe.media)),
            lambda part: self._thread.submit(part[1].__exit__),
            room=room,
        )

    async def see(self, edition: Edition, video: bytes, seconds: float | None) -> AsyncGenerator[Seen]:
        """Features of the first `seconds`, or of all, of a video file's content, clip by clip. MediaError."""
        async with self._shelf.use(edition) as (recipe, reader):
            loop, clips = asyncio.get_running_loop(), _see(recipe, reader, video, seconds)
            try:
                while (seen := await loop.run_in_executor(self._thread, next, clips, None)) is not None:
                    yield seen
            finally:
                self._thread.submit(clips.close)


def _see(recipe: Recipe, reader: Reader, video: bytes, seconds: float | None) -> Generator[Seen]:
    handle, name = tempfile.mkstemp(prefix="v2meow-")
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(video)
        length = reader.probe(path).seconds
        length = length if seconds is None else min(length, seconds)
        with closing(features_by_clip(recipe, reader, path, length)) as clips:
            for number, features in enumerate(clips, 1):
                yield Seen(features, length, last=number * recipe.data.clip_seconds >= length)
    finally:
        with suppress(FileNotFoundError):
            path.unlink()


class TextWorker(Worker):
    """Prompts to music-text vectors."""

    def __init__(self, room: int) -> None:
        self._shelf: Shelf[TextTower] = Shelf(lambda folder, _: TextTower(folder), room=room)

    async def embed(self, edition: Edition, prompt: str) -> Tensor:
        """[width]. PromptError."""
        async with self._shelf.use(edition) as tower:
            return tower.embed(prompt)


class StageWorker(Worker):
    """One stage: an engine for each edition, each with room for `pieces` windows at once; more wait."""

    def __init__(self, stage: StageName, pieces: int, room: int) -> None:
        self.stage: StageName = stage
        self._shelf: Shelf[tuple[Recipe, Batcher]] = Shelf(
            lambda folder, recipe: (recipe, Batcher(_sound_engine(folder, recipe, stage, pieces))),
            lambda part: part[1].close(),
            room=room,
        )

    async def decode(self, edition: Edition, request: Request, milestones: list[int]) -> AsyncGenerator[Tensor]:
        """As `Batcher.decode`, in the smallest integers that hold the codes."""
        async with self._shelf.use(edition) as (_, batcher), aclosing(batcher.decode(request, milestones)) as answers:
            async for codes in answers:
                yield codes.to(torch.int16)

    async def agreement(self, edition: Edition, brief: Brief, ids: Tensor) -> float:
        """How much likelier the picture makes semantic ids [1, t], in nats an id. For the semantic stage."""
        async with self._shelf.use(edition) as (recipe, batcher):
            piece = Piece(brief, recipe)
            piece.tracks["semantic"] = ids
            return await asyncio.to_thread(agreement, batcher.model, piece)

    @property
    def loads(self) -> list[Load]:
        """What each engine has to do."""
        return [batcher.load for _, batcher in self._shelf.parts]

    @property
    def alive(self) -> bool:
        """Whether all engines work."""
        return all(batcher.alive for _, batcher in self._shelf.parts)

    def check_health(self) -> None:
        """RuntimeError when an engine has stopped. Ray Serve asks, and replaces the process."""
        if not self.alive:
            raise RuntimeError(f"the engine of the {self.stage} stage has stopped")


def _sound_engine(folder: Path, recipe: Recipe, stage: StageName, pieces: int) -> StageEngine:
    """The stage's engine. BundleError for weights that are no numbers: from such logits ids can be drawn, too."""
    engine = stage_engine(folder, recipe, stage, pieces)
    if not all(bool(weights.isfinite().all()) for weights in engine.model.state_dict().values()):
        raise BundleError(f"{folder}: weights of the {stage} stage are no finite numbers")
    return engine


class CodecWorker(Worker):
    """Codes to sound."""

    def __init__(self, room: int) -> None:
        self._shelf: Shelf[Codec] = Shelf(lambda folder, _: load_codec(folder / "encoders" / "codec"), room=room)

    async def context(self, edition: Edition) -> int:
        """Frames after a piece of sound that the codec needs to decode it."""
        async with self._shelf.use(edition) as codec:
            return codec.context[1]

    async def sound(self, edition: Edition, codes: Tensor, first: int, end: int) -> Tensor:
        """Waveform float32 [samples] of frames `first` … `end` - 1 of codes [K, T]."""
        async with self._shelf.use(edition) as codec:
            return await asyncio.to_thread(_sound, codec, codes, first, end)


@torch.inference_mode()
def _sound(codec: Codec, codes: Tensor, first: int, end: int) -> Tensor:
    return codec.decode_part(codes[None].long(), first, end)[0].clone()
