"""The gate: first come, first served, a bounded queue, and not one place lost whatever happens."""

import asyncio
import random

import pytest

from serving.admission import Gate
from serving.problems import Problem


async def _hold(gate: Gate, pieces: int, order: list[int], number: int, seconds: float = 0.001) -> None:
    async with gate.place(pieces, 100.0):
        order.append(number)
        assert gate.inside <= gate.running
        await asyncio.sleep(seconds)


def test_first_come_first_served_and_never_more_than_may_run():
    """A large request at the head is not overtaken for ever by small ones that would fit."""

    async def crowd() -> list[int]:
        gate, order = Gate(3, 100), []
        weights = [2, 2, 1, 3, 1, 1, 2, 9, 1]  # 9 is as much as there is
        await asyncio.gather(*(_hold(gate, pieces, order, number) for number, pieces in enumerate(weights)))
        assert (gate.inside, gate.queued) == (0, 0)
        return order

    assert asyncio.run(crowd()) == list(range(9))


def test_who_comes_when_the_queue_is_full_is_sent_away_at_once_with_a_time():
    async def crowd() -> None:
        gate, order = Gate(1, 2), []
        inside = [asyncio.ensure_future(_hold(gate, 1, order, number, 0.05)) for number in range(3)]
        await asyncio.sleep(0.01)
        assert (gate.inside, gate.queued) == (1, 2)
        with pytest.raises(Problem) as refused:
            await _hold(gate, 1, order, 9)
        assert (refused.value.status, refused.value.kind) == (429, "busy")
        assert int(refused.value.headers["Retry-After"]) >= 1
        await asyncio.gather(*inside)
        assert order == [0, 1, 2]

    asyncio.run(crowd())


def test_no_queue_at_all_still_lets_in_who_finds_room():
    async def alone() -> None:
        gate, order = Gate(2, 0), []
        await _hold(gate, 2, order, 0)
        await _hold(gate, 1, order, 1)
        assert order == [0, 1]

    asyncio.run(alone())


def test_who_cannot_be_served_before_the_deadline_is_sent_away_at_once():
    """By what pieces before took: waiting in vain costs both sides."""

    async def slow() -> None:
        gate, order = Gate(1, 100), []
        for number in range(12):
            await _hold(gate, 1, order, number, 0.05)
        assert gate.outlook < 0.5  # the first guess was 2 s: it has learnt
        inside = asyncio.ensure_future(_hold(gate, 1, order, 12, 0.05))
        await asyncio.sleep(0.01)
        with pytest.raises(Problem, match="come back later"):
            async with gate.place(1, gate.outlook - 0.01):
                pass
        assert gate.queued == 0
        await _hold(gate, 1, order, 13)  # with patience it waits, and is let in
        await inside
        assert order[-2:] == [12, 13]

    asyncio.run(slow())


def test_a_place_that_was_waited_for_too_long_is_given_back():
    async def late() -> None:
        gate, order = Gate(1, 10), []
        gate._mean = 0.0  # so that it is let wait
        inside = asyncio.ensure_future(_hold(gate, 1, order, 0, 0.2))
        await asyncio.sleep(0.01)
        with pytest.raises(TimeoutError):
            async with gate.place(1, 0.05):
                pass
        assert (gate.inside, gate.queued) == (1, 0)
        await inside
        assert (gate.inside, gate.queued) == (0, 0)

    asyncio.run(late())


def test_no_place_is_lost_by_a_thousand_callers_who_leave_at_any_moment():
    """Leaving in the very step in which the turn comes is where places get lost."""

    async def storm() -> None:
        gate, order, chance = Gate(3, 10_000), [], random.Random(0)
        gate._mean = 0.0
        tasks = []
        for number in range(1000):
            task = asyncio.ensure_future(_hold(gate, chance.randint(1, 4), order, number, chance.random() * 0.002))
            tasks.append(task)
            if chance.random() < 0.7:
                asyncio.get_running_loop().call_later(chance.random() * 0.3, task.cancel)
            if chance.random() < 0.3:
                await asyncio.sleep(0)
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        gone = sum(isinstance(end, asyncio.CancelledError) for end in ends)
        assert 100 < gone < 1000 and all(end is None or isinstance(end, asyncio.CancelledError) for end in ends)
        assert (gate.inside, gate.queued) == (0, 0) and order == sorted(order)
        await asyncio.wait_for(_hold(gate, 3, order, 1000), 1.0)

    asyncio.run(storm())
