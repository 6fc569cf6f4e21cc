"""Bundles side by side: each part loaded once for many, tried again after a failure, and never closed while in use."""

import asyncio
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from serving.choice import resolve
from serving.editions import Edition, Shelf, read_served, write_served
from v2meow.bundle import BundleError
from v2meow.config import Recipe


class Loads:
    """Loads the hash's beginning, slowly; the first `failing` loads fail."""

    def __init__(self, failing: int = 0, seconds: float = 0.02) -> None:
        self.loaded: list[str] = []
        self.closed: list[str] = []
        self._left, self._seconds, self._lock = failing, seconds, threading.Lock()

    def __call__(self, folder: Path, recipe: Recipe) -> str:
        time.sleep(self._seconds)
        with self._lock:
            self.loaded.append(str(folder))
            self._left -= 1
            if self._left >= 0:
                raise OSError("the disk is away")
        return str(folder)

    def shelf(self, room: int = 2) -> Shelf[str]:
        return Shelf(self, self.closed.append, room=room)


@pytest.fixture
def editions(tiny_model: Path, tmp_path: Path) -> list[Edition]:
    """Three bundles that differ in their card."""
    made = []
    for number in range(3):
        folder = shutil.copytree(tiny_model, tmp_path / str(number))
        made.append(replace(resolve(str(folder), None), digest=str(number)))
    return made


@pytest.fixture(autouse=True)
def trusting(monkeypatch):
    """These tests give bundles hashes of their own; what a hash is for is tested below."""
    monkeypatch.setattr(Edition, "verify", lambda self: Path(self.folder))


async def _use(shelf: Shelf[str], edition: Edition, seconds: float = 0.0) -> str:
    async with shelf.use(edition) as part:
        await asyncio.sleep(seconds)
        return part


def test_a_part_is_loaded_once_for_many_callers(editions):
    """A hundred requests at the start would otherwise load a hundred models."""
    loads = Loads()

    async def many() -> list[str]:
        shelf = loads.shelf()
        return await asyncio.gather(*(_use(shelf, editions[0]) for _ in range(100)))

    assert set(asyncio.run(many())) == {editions[0].folder} and len(loads.loaded) == 1


def test_a_failed_load_is_told_to_those_who_waited_and_tried_again_by_the_next(editions):
    loads = Loads(failing=1)

    async def twice() -> tuple[list, str]:
        shelf = loads.shelf()
        first = await asyncio.gather(*(_use(shelf, editions[0]) for _ in range(3)), return_exceptions=True)
        return first, await _use(shelf, editions[0])

    first, second = asyncio.run(twice())
    assert all(isinstance(end, OSError) for end in first) and second == editions[0].folder
    assert len(loads.loaded) == 2


def test_those_who_try_again_at_once_share_one_load(editions):
    """The others who waited for the failed load must not throw the new one away."""
    loads = Loads(failing=1)

    async def stubborn(shelf: Shelf[str]) -> str:
        while True:
            try:
                return await _use(shelf, editions[0])
            except OSError:
                pass

    async def all_of_them() -> Shelf[str]:
        shelf = loads.shelf()
        await asyncio.gather(*(stubborn(shelf) for _ in range(5)))
        return shelf

    assert asyncio.run(all_of_them()).parts == [editions[0].folder]
    assert len(loads.loaded) == 2


def test_a_load_that_failed_when_nobody_waited_any_more_is_tried_again(editions):
    """Its error would meet the next caller, or the one who puts another bundle on the shelf."""
    loads = Loads(failing=1)

    async def leave_and_return() -> str:
        shelf = loads.shelf(room=1)
        leaving = asyncio.ensure_future(_use(shelf, editions[0]))
        await asyncio.sleep(0.005)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await asyncio.sleep(0.1)
        assert await _use(shelf, editions[1]) == editions[1].folder
        return await _use(shelf, editions[0])

    assert asyncio.run(leave_and_return()) == editions[0].folder


def test_who_leaves_during_a_load_does_not_end_it_for_the_others(editions):
    loads = Loads(seconds=0.05)

    async def leave() -> str:
        shelf = loads.shelf()
        leaving, staying = (asyncio.ensure_future(_use(shelf, editions[0])) for _ in range(2))
        await asyncio.sleep(0.01)
        leaving.cancel()
        return await staying

    assert asyncio.run(leave()) == editions[0].folder and len(loads.loaded) == 1


def test_one_in_use_is_never_closed_and_the_one_used_longest_ago_goes(editions):
    loads = Loads()
    first, second, third = editions

    async def crowd() -> None:
        shelf = loads.shelf(room=1)
        long = asyncio.ensure_future(_use(shelf, first, 0.4))
        await asyncio.sleep(0.1)
        await _use(shelf, second)
        assert loads.closed == [] and not long.done()  # full, and yet nothing in use was closed
        await long
        await _use(shelf, third)
        assert set(loads.closed) == {first.folder, second.folder}

    asyncio.run(crowd())

    async def order() -> None:
        shelf = loads.shelf(room=2)
        loads.closed.clear()
        for edition in (first, second, first, third):
            await _use(shelf, edition)
        assert loads.closed == [second.folder]

    asyncio.run(order())


def test_a_bundle_folder_that_changed_is_refused(tiny_model, tmp_path, monkeypatch):
    """A request would be made by another model than the one whose hash it is told."""
    monkeypatch.undo()
    folder = shutil.copytree(tiny_model, tmp_path / "bundle")
    edition = resolve(str(folder), None)
    assert edition.verify() == folder
    (folder / "recipe.yaml").write_text((folder / "recipe.yaml").read_text() + "\n")
    with pytest.raises(BundleError, match=r"changed: recipe\.yaml"):
        asyncio.run(_use(Loads().shelf(), edition))
    shutil.rmtree(folder)
    whole = shutil.copytree(tiny_model, folder)
    with pytest.raises(BundleError, match="is another bundle now"):
        asyncio.run(_use(Loads().shelf(), replace(edition, digest="0" * 64, folder=str(whole))))


def test_a_new_process_loads_what_is_served_before_it_is_asked(editions, tmp_path):
    """Else the first request after a replacement, or after a scale-up, pays for loading."""
    write_served(tmp_path, editions[:2])
    loads = Loads()
    asyncio.run(loads.shelf().warm(read_served(tmp_path)))
    assert loads.loaded == [edition.folder for edition in editions[:2]]


def test_what_cannot_be_loaded_beforehand_keeps_no_process_from_starting(editions, tmp_path):
    """A model that has gone would else end every new process, those of the other models' requests, too."""
    (tmp_path / "editions.json").write_text("{")
    assert read_served(tmp_path) == read_served(tmp_path / "nothing") == []
    loads = Loads(failing=1)
    asyncio.run(loads.shelf().warm(editions[:2]))
    assert loads.loaded == [edition.folder for edition in editions[:2]]


def test_no_more_is_loaded_beforehand_than_there_is_room_for(editions):
    """Loading a third would close the first, which is served."""
    loads = Loads()
    asyncio.run(loads.shelf(room=2).warm(editions))
    assert len(loads.loaded) == 2 and not loads.closed
