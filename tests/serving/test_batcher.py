"""The engine in its thread: the same codes as without it, early beginnings, and callers that cannot harm others."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from processes import wait_for

from serving.batcher import Batcher
from v2meow.encoders.visual import WIDTH
from v2meow.generate.parts import bundle_recipe, stage_engine
from v2meow.generate.request import Request
from v2meow.model.lm import Conditions
from v2meow.model.patterns import UNKNOWN


def _engine(folder: Path, pieces: int = 4):
    return stage_engine(folder, bundle_recipe(folder), "semantic", pieces)


@pytest.fixture
def batcher(tiny_model: Path) -> Iterator[Batcher]:
    batcher = Batcher(_engine(tiny_model))
    yield batcher
    batcher.close()


def _request(seed: int, frames: int = 50) -> Request:
    picture = torch.randn(1, 20, WIDTH, generator=torch.Generator().manual_seed(seed))
    return Request(Conditions(visual=(picture,)), torch.full((1, frames), UNKNOWN), seed)


async def _codes(batcher: Batcher, request: Request, milestones: tuple[int, ...] = ()) -> list[torch.Tensor]:
    return [codes async for codes in batcher.decode(request, milestones)]


def _idle(batcher: Batcher) -> bool:
    return batcher.load.rows == 0 and batcher.load.waiting == 0


def test_many_callers_at_once_get_the_codes_of_the_engine_alone(batcher, tiny_model):
    """More callers than rows, so that they join and leave in the middle of each other's work."""
    engine, alone = _engine(tiny_model, 1), []
    for seed in range(12):
        ticket = engine.submit(_request(seed))
        while ticket not in (done := engine.step()):
            pass
        alone.append(done[ticket])

    async def together() -> list[list[torch.Tensor]]:
        return await asyncio.gather(*(_codes(batcher, _request(seed)) for seed in range(12)))

    for expected, answers in zip(alone, asyncio.run(together()), strict=True):
        assert len(answers) == 1 and torch.equal(answers[0], expected)
    assert _idle(batcher) and batcher.load.codes == 12 * 50


def _slowly(batcher: Batcher, monkeypatch) -> None:
    """So that a reader sees what is under way, however late this machine lets it look."""
    step = batcher._engine.step
    monkeypatch.setattr(batcher._engine, "step", lambda: (time.sleep(0.02), step())[1])


def test_milestones_come_early_and_begin_the_whole(batcher, monkeypatch):
    """A next stage that waits for all of a window starts late; one that gets other codes fits nothing."""
    _slowly(batcher, monkeypatch)

    async def listen() -> tuple[list[torch.Tensor], list[int]]:
        answers, rows = [], []
        async for codes in batcher.decode(_request(1), (5, 20)):
            answers.append(codes)
            rows.append(batcher.load.rows)
        return answers, rows

    answers, rows = asyncio.run(listen())
    whole = answers[-1]
    assert [codes.shape[1] for codes in answers] == [5, 20, 50]
    assert all(torch.equal(codes, whole[:, : codes.shape[1]]) for codes in answers)
    assert rows[0] > 0 and (whole != UNKNOWN).all()


def test_leaving_the_iterator_frees_the_rows_at_once(batcher, monkeypatch):
    """Music for somebody who left would take the places of those who stay."""
    _slowly(batcher, monkeypatch)

    async def leave(cancel: bool) -> None:
        async with aclosing(batcher.decode(_request(1), (1,))) as answers:
            await anext(answers)
            assert batcher.load.rows > 0
            if cancel:
                raise asyncio.CancelledError

    made = 0
    for cancel in (False, True):
        try:
            asyncio.run(leave(cancel))
        except asyncio.CancelledError:
            assert cancel
        wait_for(lambda: _idle(batcher), 5.0)
        assert batcher.load.codes == made  # it was not decoded to its end


def _taken_in(batcher: Batcher, monkeypatch) -> list[int]:
    """Seeds in the order in which the engine got them."""
    submit, seeds = batcher._engine.submit, []
    monkeypatch.setattr(batcher._engine, "submit", lambda request: (seeds.append(request.seed), submit(request))[1])
    return seeds


@pytest.mark.parametrize(("late", "alone"), [(2, False), (1, True)])
def test_few_wait_for_company_while_many_are_inside(tiny_model, monkeypatch, late, alone):
    """Windows that are read one by one cost more than those that are read together; nobody waits for ever."""
    monkeypatch.setattr("serving.batcher._HOLD_S", 0.1 if alone else 60.0)
    batcher = Batcher(_engine(tiny_model, 8))
    _slowly(batcher, monkeypatch)
    seeds = _taken_in(batcher, monkeypatch)

    async def listen() -> list[list[torch.Tensor]]:
        inside = [asyncio.ensure_future(_codes(batcher, _request(seed))) for seed in range(4)]
        await asyncio.to_thread(wait_for, lambda: batcher.load.rows > 0 and len(seeds) == 4, 5.0)
        came = []
        for seed in range(4, 4 + late):
            await asyncio.sleep(0.05)
            assert len(seeds) == 4  # also of two the first has waited
            came.append(asyncio.ensure_future(_codes(batcher, _request(seed))))
        await asyncio.to_thread(wait_for, lambda: len(seeds) == 4 + late, 5.0)
        assert not any(one.done() for one in inside)
        return await asyncio.gather(*inside, *came)

    answers = asyncio.run(listen())
    assert sorted(seeds) == list(range(4 + late))
    assert all((codes != UNKNOWN).all() for (codes,) in answers)
    batcher.close()


def test_who_leaves_while_waiting_for_company_is_never_taken_in(tiny_model, monkeypatch):
    monkeypatch.setattr("serving.batcher._HOLD_S", 60.0)
    batcher = Batcher(_engine(tiny_model, 8))
    _slowly(batcher, monkeypatch)
    seeds = _taken_in(batcher, monkeypatch)

    async def leave() -> None:
        inside = [asyncio.ensure_future(_codes(batcher, _request(seed))) for seed in range(4)]
        await asyncio.to_thread(wait_for, lambda: len(seeds) == 4, 5.0)
        left = asyncio.ensure_future(_codes(batcher, _request(4)))
        await asyncio.sleep(0.05)
        left.cancel()
        await asyncio.gather(*inside)

    asyncio.run(leave())
    wait_for(lambda: _idle(batcher), 5.0)
    assert sorted(seeds) == [0, 1, 2, 3]
    batcher.close()


def test_a_request_that_does_not_fit_is_an_error_for_that_one_only(batcher):
    async def both():
        misfit = _codes(batcher, _request(1, frames=500))
        return await asyncio.gather(_codes(batcher, _request(2)), misfit, return_exceptions=True)

    good, bad = asyncio.run(both())
    assert isinstance(bad, ValueError) and "does not fit" in str(bad)
    assert isinstance(good, list) and torch.equal(good[0], asyncio.run(_codes(batcher, _request(2)))[0])
    assert batcher.alive


def test_closing_fails_what_is_under_way_and_what_comes_later(tiny_model):
    """A caller of an engine that has ended must not wait for ever."""
    batcher = Batcher(_engine(tiny_model, 1))

    async def close() -> list:
        waiting = [asyncio.ensure_future(_codes(batcher, _request(seed, 50))) for seed in range(20)]
        await asyncio.sleep(0)
        await asyncio.to_thread(batcher.close)
        late = _codes(batcher, _request(1))
        return await asyncio.wait_for(asyncio.gather(*waiting, late, return_exceptions=True), 5.0)

    ends = asyncio.run(close())
    assert isinstance(ends[-1], RuntimeError) and not batcher.alive
    assert sum(isinstance(end, RuntimeError) and "closed" in str(end) for end in ends) > 10


def test_an_engine_that_fails_says_so_to_everybody(tiny_model, caplog):
    """Pictures of a wrong width pass the door and break the step: an engine in an unknown state must not go on."""
    batcher = Batcher(_engine(tiny_model))
    wrong = replace(_request(1), given=Conditions(visual=(torch.zeros(1, 20, WIDTH + 1),)))

    async def fail() -> list:
        tasks = [_codes(batcher, request) for request in (_request(1), wrong, _request(2))]
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5.0)

    ends = asyncio.run(fail())
    wait_for(lambda: not batcher.alive, 5.0)
    assert "the engine has failed" in caplog.text
    assert isinstance(ends[1], Exception)
    with pytest.raises(RuntimeError):
        asyncio.run(asyncio.wait_for(_codes(batcher, _request(3)), 5.0))


def test_a_caller_whose_loop_has_ended_does_not_harm_the_others(batcher):
    """A process that answers from several loops loses one of them: answers to it lead nowhere."""
    lost = asyncio.new_event_loop()
    orphan = batcher.decode(_request(1), (1, 2, 3))
    lost.run_until_complete(anext(orphan))
    lost.close()
    expected = asyncio.run(_codes(batcher, _request(2)))
    wait_for(lambda: _idle(batcher), 5.0)
    assert torch.equal(asyncio.run(_codes(batcher, _request(2)))[0], expected[0])
