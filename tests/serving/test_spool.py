"""Generations on disk: whole records, one holder of each idempotency key, and nothing left behind."""

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from serving.problems import Problem
from serving.spool import INPUT, RECORD, Order, Record, Spool
from v2meow.files import read_json


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", keep_s=100.0)


def _new(spool: Spool, owner: str = "alice", content: bytes = b"video") -> Record:
    upload = spool.folder.parent / "upload"
    upload.write_bytes(content)
    return spool.new(Order(prompt="bells", seed=3), "stream", owner, upload)


def _age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_record_comes_back_as_it_was_for_its_owner_alone(spool):
    record = _new(spool)
    assert spool.load(record.id) == spool.load(record.id, "alice") == record
    assert (spool.place(record.id) / INPUT).read_bytes() == b"video" and record.input["bytes"] == 5
    assert not (spool.folder.parent / "upload").exists()
    with pytest.raises(Problem, match="there is no generation"):
        spool.load(record.id, "bob")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "keys", "A" * 32, "0" * 31, "0" * 32 + "\n", "0" * 32])
def test_a_name_that_is_no_generation_is_not_found(spool, name):
    """Some of them would be other folders."""
    with pytest.raises(Problem) as refused:
        spool.load(name)
    assert refused.value.status == 404


def test_what_has_expired_goes_with_its_files_and_its_key(spool):
    """A disk that fills with keys of generations that are long gone is full one day, too."""
    kept, gone = _new(spool), _new(spool)
    for record in (kept, gone):
        assert spool.claim(record.id, "alice", record.id) == record.id
    gone.expires = time.time() - 1
    spool.save(gone)
    with pytest.raises(Problem):
        spool.load(gone.id)
    for file in (spool.folder / "keys").iterdir():
        _age(file, 101)
    spool.tidy()
    assert [record.id for record in spool.records()] == [kept.id]
    assert not spool.place(gone.id).exists() and len(list((spool.folder / "keys").iterdir())) == 1


def test_what_has_ended_is_read_once(spool, monkeypatch):
    """A sweep every few seconds that read an hour's results each time would cost more than the music."""
    under_way, ended, gone = _new(spool), _new(spool), _new(spool)
    gone.expires = time.time() + 0.2
    for record in (ended, gone):
        record.status = "succeeded"
        spool.save(record)
    assert [record.id for record in spool.pending()] == [under_way.id]
    read = []
    monkeypatch.setattr("serving.spool.read_json", lambda path: read.append(path) or read_json(path))
    assert [record.id for record in spool.pending()] == [under_way.id]
    assert read == [spool.place(under_way.id) / RECORD]
    time.sleep(0.25)
    spool.tidy()
    assert {record.id for record in spool.records()} == {under_way.id, ended.id}
    under_way.status = "failed"
    spool.save(under_way)
    assert spool.pending() == []


def test_what_was_never_whole_goes_too(spool):
    """A process that dies between a folder and its record leaves the video of somebody behind."""
    place = spool.place("0" * 32)
    place.mkdir()
    (place / INPUT).write_bytes(b"video")
    spool.tidy()
    assert place.exists()  # it may be about to get its record
    _age(place, 101)
    spool.tidy()
    assert not place.exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"id": "x", "order": {"tempo": 3}}', "\xff"])
def test_a_record_that_cannot_be_read_stops_nobody(spool, content):
    """Another version of the program wrote it; the sweep and everybody else's generations must go on."""
    good, bad = _new(spool), _new(spool)
    (spool.place(bad.id) / RECORD).write_text(content, encoding="latin-1")
    assert [record.id for record in spool.records()] == [good.id]
    spool.tidy()
    with pytest.raises(Problem, match="there is no generation"):
        spool.load(bad.id)


def test_a_forgotten_generation_does_not_come_back(spool):
    """Another process may still work on it, and say so."""
    record = _new(spool)
    spool.forget(record.id)
    with pytest.raises(FileNotFoundError):
        spool.save(record)
    with pytest.raises(FileNotFoundError):
        spool.beat(record.id)
    assert not spool.place(record.id).exists()


def test_a_key_stands_for_the_first_that_claims_it(spool):
    first, second, other = _new(spool), _new(spool), _new(spool, owner="bob")
    assert spool.claim("k", "alice", first.id) == first.id
    assert spool.claim("k", "alice", second.id) == first.id
    assert spool.claim("k", "bob", other.id) == other.id


@pytest.mark.parametrize(
    "change",
    [
        {"status": "cancelled"},
        {"status": "failed", "error": {"retriable": True}},
        {"expires": 0.0},
        None,
    ],
)
def test_a_key_goes_to_the_next_when_its_generation_came_to_nothing(spool, change):
    first, second = _new(spool), _new(spool)
    spool.claim("k", "alice", first.id)
    if change is None:
        spool.forget(first.id)
    else:
        for name, value in change.items():
            setattr(first, name, value)
        spool.save(first)
    assert spool.claim("k", "alice", second.id) == second.id
    assert spool.claim("k", "alice", _new(spool).id) == second.id


def test_a_failure_that_would_come_again_keeps_its_key(spool):
    first = _new(spool)
    spool.claim("k", "alice", first.id)
    first.status, first.error = "failed", {"retriable": False}
    spool.save(first)
    assert spool.claim("k", "alice", _new(spool).id) == first.id


def _race(folder: Path, names: list[str], begin, won) -> None:
    spool = Spool(folder, 100.0)
    begin.wait()
    for round_, name in enumerate(names):
        won.put((round_, spool.claim(f"key {round_}", "alice", name), spool.take_over(spool.load(f"{round_:032x}"))))


def test_of_many_processes_exactly_one_wins_a_key_and_one_takes_a_generation_over(spool):
    """A key whose first generation was cancelled is where two could both go on: each would undo the other's claim."""
    rounds, racers = 40, 4
    for round_ in range(rounds):
        stale = _new(spool)
        spool.claim(f"key {round_}", "alice", stale.id)
        stale.status = "cancelled"
        spool.save(stale)
        orphan = _new(spool)
        spool.place(orphan.id).rename(spool.folder / f"{round_:032x}")
        record = json.loads((spool.folder / f"{round_:032x}" / RECORD).read_text())
        (spool.folder / f"{round_:032x}" / RECORD).write_text(json.dumps(record | {"id": f"{round_:032x}"}))
    context = multiprocessing.get_context("fork")
    begin, won = context.Event(), context.Queue()
    names = [[_new(spool).id for _ in range(rounds)] for _ in range(racers)]
    children = [context.Process(target=_race, args=(spool.folder, own, begin, won)) for own in names]
    for child in children:
        child.start()
    begin.set()
    results = [won.get(timeout=60) for _ in range(rounds * racers)]
    for child in children:
        child.join()
    for round_ in range(rounds):
        assert len({winner for where, winner, _ in results if where == round_}) == 1
        assert sum(taken for where, _, taken in results if where == round_) == 1
