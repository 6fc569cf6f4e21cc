"""A piece played by parts is the piece of the cascade, bit for bit, and frees what it holds however it ends."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import aclosing
from copy import copy
from pathlib import Path

import pytest
import torch
from local_server import Loop
from processes import wait_for
from tiny_bundle import RATE

from serving.editions import Edition
from serving.local import LocalParts
from serving.performance import Performance, Progress, Seen, whole
from v2meow.config import StageName
from v2meow.encoders.visual import WIDTH
from v2meow.generate.files import faded
from v2meow.generate.parts import bundle_recipe
from v2meow.generate.piece import Brief, Piece
from v2meow.generate.pipeline import Cascade
from v2meow.generate.request import Request


@pytest.fixture(scope="module")
def cascade(tiny_model: Path) -> Cascade:
    return Cascade(tiny_model)


def _brief(seconds: float, seed: int = 0, prompted: bool = False) -> Brief:
    random = torch.Generator().manual_seed(seed)
    visual = (torch.randn(math.ceil(seconds * 10), WIDTH, generator=random),)
    joint = torch.randn(8, generator=random) if prompted else None
    return Brief(visual=visual, joint=joint, seconds=seconds, seed=seed)


async def _play(brief: Brief, edition: Edition, parts: LocalParts) -> list[Progress | torch.Tensor]:
    piece = Piece(brief, bundle_recipe(Path(edition.folder)))
    context = await parts.context(edition)
    return [item async for item in Performance(piece, edition, parts, context)]


def _sound(items: list[Progress | torch.Tensor]) -> torch.Tensor:
    return torch.cat([item for item in items if isinstance(item, torch.Tensor)])


@pytest.mark.parametrize("seconds", [0.02, 0.1, 0.53, 1.0, 2.0, 2.6, 7.37])
def test_it_is_the_music_of_the_cascade_to_the_bit(loop: Loop, cascade, edition, seconds):
    """Whatever its length: the slow way proves the fast way."""
    brief = _brief(seconds, 3, prompted=True)
    assert brief.joint is not None
    expected = faded(cascade.generate((brief.visual[0][None],), brief.joint[None], seconds, [3])[0], RATE)
    sound = _sound(loop.run(_play(brief, edition, loop.parts)))
    assert len(sound) == round(seconds * RATE) and torch.equal(sound, expected)


def test_it_is_the_same_music_when_the_video_is_seen_bit_by_bit(loop: Loop, cascade, edition, long_clip):
    """Windows wait for the pictures that they are made from, and begin before the last of them was seen."""
    seconds = 9.0

    async def play() -> tuple[torch.Tensor, torch.Tensor, bool]:
        async with aclosing(loop.parts.see(edition, long_clip, seconds)) as looking:
            first = await anext(looking)
            assert not first.last
            brief = Brief(visual=first.visual, joint=None, seconds=seconds, seed=4)
            piece = Piece(brief, bundle_recipe(Path(edition.folder)), looking=not first.last)
            performance = Performance(piece, edition, loop.parts, await loop.parts.context(edition))
            items, early = [], False
            async for item in performance:
                items.append(item)
                if not early:  # something was made of the first pictures alone
                    early = True
                    async for seen in looking:
                        performance.see(seen)
            return _sound(items), piece.brief.visual[0], early

    sound, visual, early = loop.run(play())
    whole_look = loop.run(_looked(loop.parts, edition, long_clip, seconds))
    assert early and torch.equal(visual, whole_look.visual[0])
    expected = cascade.generate((visual[None],), None, seconds, [4])[0]
    assert torch.equal(sound, faded(expected, RATE))


async def _looked(parts: LocalParts, edition: Edition, video: Path, seconds: float) -> Seen:
    return await whole(parts.see(edition, video, seconds))


def test_a_video_that_breaks_off_late_ends_its_piece(loop: Loop, edition):
    """Its beginning is being scored already; windows that wait for the rest would wait for ever."""

    async def play() -> None:
        piece = Piece(_brief(20.0), bundle_recipe(Path(edition.folder)), looking=True)
        performance = Performance(piece, edition, loop.parts, await loop.parts.context(edition))
        performance.see(ConnectionError("the eyes are gone"))
        async for _ in performance:
            pass

    with pytest.raises(ConnectionError, match="the eyes are gone"):
        loop.run(play(), 10.0)
    wait_for(loop.idle, 1.0)


def test_pieces_at_once_are_those_that_are_played_alone(loop: Loop, cascade, edition):
    """More of them than places, with and without words, in each other's steps."""
    briefs = [_brief(3.3, seed, prompted=seed % 2 == 0) for seed in range(9)]

    async def together() -> list:
        return await asyncio.gather(*(_play(brief, edition, loop.parts) for brief in briefs))

    for brief, items in zip(briefs, loop.run(together()), strict=True):
        joint = None if brief.joint is None else brief.joint[None]
        expected = cascade.generate((brief.visual[0][None],), joint, 3.3, [brief.seed])[0]
        assert torch.equal(_sound(items), faded(expected, RATE))
    assert loop.idle()


def test_sound_comes_while_ideas_are_still_being_made(loop: Loop, edition):
    """What a listener waits for is the first second, not the whole."""

    async def until_the_first_sound() -> float:
        piece = Piece(_brief(60.0), bundle_recipe(Path(edition.folder)))
        performance = Performance(piece, edition, loop.parts, await loop.parts.context(edition))
        async with aclosing(aiter(performance)) as items:
            async for item in items:
                if isinstance(item, torch.Tensor):
                    break
        return piece.ready["semantic"] / piece.tracks["semantic"].shape[1]

    assert loop.run(until_the_first_sound()) < 1.0


def test_progress_of_each_stage_goes_up_to_the_whole(loop: Loop, edition):
    items = loop.run(_play(_brief(3.3), edition, loop.parts))
    for stage in ("semantic", "coarse", "fine"):
        told = [item for item in items if isinstance(item, Progress) and item.stage == stage]
        shares = [item.done for item in told]
        assert shares == sorted(shares) and shares[-1] == told[-1].total


@pytest.mark.parametrize("way", ["left", "cancelled"])
def test_ending_in_the_middle_frees_all_engines(loop: Loop, edition, way):
    async def leave() -> None:
        piece = Piece(_brief(20.0), bundle_recipe(Path(edition.folder)))
        performance = Performance(piece, edition, loop.parts, await loop.parts.context(edition))
        async with aclosing(aiter(performance)) as items:
            async for item in items:
                if isinstance(item, torch.Tensor):
                    assert not loop.idle()
                    if way == "left":
                        break
                    raise asyncio.CancelledError

    task = loop.run(_started(leave()))
    loop.run(_ended(task))
    wait_for(loop.idle, 1.0)


async def _started(work) -> asyncio.Task:
    return asyncio.ensure_future(work)


async def _ended(task: asyncio.Task) -> None:
    await asyncio.gather(task, return_exceptions=True)


class Failing(LocalParts):
    """The same parts, of which one fails at its `after`-th work."""

    def __init__(self, parts: LocalParts, part: str, after: int) -> None:
        self.__dict__ = copy(parts.__dict__)
        self._part, self._left = part, after

    def _count(self, part: str) -> None:
        self._left -= part == self._part
        if self._left < 0:
            raise ConnectionError(f"{part} is gone")

    async def decode(
        self, edition: Edition, stage: StageName, request: Request, milestones: list[int]
    ) -> AsyncIterator[torch.Tensor]:
        async for codes in super().decode(edition, stage, request, milestones):
            self._count(stage)
            yield codes

    async def sound(self, edition: Edition, codes: torch.Tensor, first: int, end: int) -> torch.Tensor:
        self._count("codec")
        return await super().sound(edition, codes, first, end)


@pytest.mark.parametrize("part", ["semantic", "coarse", "fine", "codec"])
def test_an_error_of_a_part_ends_it_and_frees_the_others(loop: Loop, edition, part):
    """A piece that waits for a part that is gone waits for ever."""
    with pytest.raises(ConnectionError, match=f"{part} is gone"):
        loop.run(_play(_brief(12.0), edition, Failing(loop.parts, part, 3)), 10.0)
    wait_for(loop.idle, 1.0)


def test_who_leaves_while_its_video_is_seen_does_not_disturb_the_next(loop: Loop, edition, clip, long_clip):
    """The process that decodes answers one question after the other: one in between gets the first's answer."""

    async def look(video: Path) -> torch.Tensor:
        return (await whole(loop.parts.see(edition, video, None))).visual[0]

    async def leave_and_look() -> torch.Tensor:
        leaving = asyncio.ensure_future(look(long_clip))
        await asyncio.sleep(0.1)
        leaving.cancel()
        return await look(clip)

    expected = loop.run(look(clip))
    for _ in range(3):
        assert torch.equal(loop.run(leave_and_look()), expected)
