"""All parts of the cascade in one process, for a server that has no Ray."""

from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

from torch import Tensor

from serving.editions import Edition
from serving.performance import Seen
from serving.workers import CodecWorker, StageWorker, TextWorker, VisualWorker
from v2meow.config import STAGES, StageName
from v2meow.generate.piece import Brief
from v2meow.generate.request import Request


class LocalParts:
    """`Parts` whose engines have room for `pieces` at once; those of `room` bundles stay loaded."""

    def __init__(self, pieces: int, room: int = 2) -> None:
        self.visual, self.text, self.codec = VisualWorker(room), TextWorker(room), CodecWorker(room)
        self.stages = {name: StageWorker(name, pieces, room) for name in STAGES}

    @property
    def alive(self) -> bool:
        """Whether all engines that were started still work."""
        return all(worker.alive for worker in self.stages.values())

    def see(self, edition: Edition, video: Path, seconds: float | None) -> AsyncGenerator[Seen]:
        return self.visual.see(edition, video.read_bytes(), seconds)

    async def embed(self, edition: Edition, prompt: str) -> Tensor:
        return await self.text.embed(edition, prompt)

    def decode(
        self, edition: Edition, stage: StageName, request: Request, milestones: list[int]
    ) -> AsyncIterator[Tensor]:
        return self.stages[stage].decode(edition, request, milestones)

    async def context(self, edition: Edition) -> int:
        return await self.codec.context(edition)

    async def sound(self, edition: Edition, codes: Tensor, first: int, end: int) -> Tensor:
        return await self.codec.sound(edition, codes, first, end)

    async def agreement(self, edition: Edition, brief: Brief, ids: Tensor) -> float:
        return await self.stages["semantic"].agreement(edition, brief, ids)
