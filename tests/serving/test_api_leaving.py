"""Ends that nobody wished for: clients who leave, parts that fail, deadlines, processes that die."""

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import NoReturn

import httpx
import pytest
import torch
from local_server import LocalServer, Loop, ask, events, finished, local_server, problem
from processes import wait_for
from starlette.requests import ClientDisconnect
from test_performance import Failing

from serving import answers
from serving import performing as performing_module
from serving import service as service_module
from serving.editions import Edition
from serving.local import LocalParts
from serving.performance import Seen
from serving.settings import Settings
from serving.spool import Order, Spool


def _form(video: Path, **fields: str) -> bytes:
    request = httpx.Request("POST", "http://x", files={"video": video.read_bytes()}, data=fields)
    head = f"POST /v1/generations HTTP/1.1\r\nHost: x\r\nContent-Type: {request.headers['content-type']}\r\n"
    return f"{head}Content-Length: {request.headers['content-length']}\r\n\r\n".encode() + request.read()


def _leave(server: LocalServer, request: bytes, read: int) -> None:
    """Send a request and close the connection after so many bytes of the answer."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(request)
        while read > 0:
            read -= len(connection.recv(min(read, 65536))) or read


def test_clients_who_leave_leave_nothing_behind(loop: Loop, settings, clip):
    """Fifty of them, at all moments: before the first byte, in the head, in the middle."""
    with local_server(loop, settings(limits={"running": 4, "waiting": 100})) as server:
        requests = [_form(clip, format=form) for form in ("wav", "events")]
        for number in range(50):
            _leave(server, requests[number % 2], (0, 1, 400, 10_000, 40_000)[number % 5])
        wait_for(server.free, 10.0)
        assert server.service.performing == {}
        assert {record.status for record in server.service.spool.records()} <= {"cancelled", "succeeded"}
        for request in requests:
            _leave(server, request, 10_000)
            wait_for(server.free, 1.0)


def test_who_leaves_while_its_video_is_seen_frees_its_place(loop: Loop, settings, long_clip):
    """An answer that is never begun ends nothing by itself."""
    with local_server(loop, settings(limits={"running": 1, "waiting": 4})) as server:
        for _ in range(3):
            _leave(server, _form(long_clip, format="events"), 0)
            time.sleep(0.01)
        wait_for(server.free, 10.0)
        with server.client() as client:
            assert ask(client, long_clip, seconds=0.2).status_code == 200


def test_an_answer_that_cannot_even_begin_frees_its_place(loop: Loop, settings, clip, tmp_path):
    """A server that tells of a client's end when the head is sent: the body has not begun, and ends nothing."""

    async def answer(server: LocalServer) -> None:
        service = server.service
        upload = tmp_path / "upload"
        upload.write_bytes(clip.read_bytes())
        performing = await service.prepared(service.spool.new(Order(), "stream", "anybody", upload), 60.0)
        released: list[bool] = []
        stream = answers.Stream(answers.wav, performing, "audio/wav", {}, lambda: released.append(True))

        async def gone(_: object = None) -> NoReturn:
            raise OSError("the connection is closed")

        with pytest.raises(ClientDisconnect):
            await stream({"type": "http", "asgi": {"spec_version": "2.4"}}, gone, gone)
        assert released and service.gate.inside == 0 and service.performing == {}
        assert service.spool.load(performing.record.id).status == "cancelled"

    with local_server(loop, settings()) as server:
        loop.run(answer(server))


def test_a_client_that_stops_reading_loses_its_place_at_the_deadline(loop: Loop, settings, long_clip, monkeypatch):
    """It would hold it for as long as it likes."""
    monkeypatch.setattr(answers, "_GRACE_S", 0.2)
    with local_server(loop, settings(limits={"deadline_s": 2.0})) as server:
        server.shrink_buffers()
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(_form(long_clip, format="events", takes="8"))
            connection.recv(100)
            wait_for(server.free, 10.0)
        assert server.service.performing == {}


@pytest.mark.parametrize("part", ["semantic", "fine", "codec"])
def test_a_part_that_fails_ends_the_answer_so_that_it_shows(loop: Loop, settings, clip, part):
    """A short WAV that looks whole is music that stops in the middle."""
    parts = Failing(loop.parts, part, 1_000_000)
    with local_server(loop, settings(), parts) as server, server.client() as client:
        parts._left = 1
        with pytest.raises(httpx.RemoteProtocolError):
            ask(client, clip)
        parts._left = 1
        lines = events(ask(client, clip, format="events"))
        assert lines[-1]["event"] == "error" and lines[-1]["status"] == 500 and not lines[-1]["retriable"]
        assert f"{part} is gone" not in json.dumps(lines)  # what is inside stays inside
        parts._left = 1
        problem(ask(client, clip, format="mp4"), 500, "internal-error")
        parts._left = 1
        record = finished(client, ask(client, clip, mode="async").json()["id"])
        assert record["status"] == "failed" and record["error"]["type"].endswith("internal-error")
        problem(client.get(f"/v1/generations/{record['id']}/takes/1"), 409, "not-done")
        wait_for(server.free, 1.0)
        assert server.counts.happened["internal-error"] == 4
        parts._left = 1_000_000
        assert ask(client, clip, seconds=0.2).status_code == 200


class Slow(LocalParts):
    """The same parts, of which eyes and voice take so many seconds."""

    def __init__(self, parts: LocalParts, see: float = 0.0, sound: float = 0.0) -> None:
        self.__dict__ = dict(parts.__dict__)
        self.see_s, self.sound_s = see, sound

    async def see(self, edition: Edition, video: Path, seconds: float | None) -> AsyncGenerator[Seen]:
        await asyncio.sleep(self.see_s)
        async with aclosing(super().see(edition, video, seconds)) as looking:
            async for seen in looking:
                yield seen

    async def sound(self, edition: Edition, codes: torch.Tensor, first: int, end: int) -> torch.Tensor:
        await asyncio.sleep(self.sound_s)
        return await super().sound(edition, codes, first, end)


def test_what_is_not_done_before_the_deadline_ends_there(loop: Loop, settings, clip):
    parts = Slow(loop.parts, sound=0.4)
    with local_server(loop, settings(limits={"deadline_s": 0.8}), parts) as server, server.client() as client:
        began = time.monotonic()
        lines = events(ask(client, clip, format="events"))
        assert (
            lines[-1]["event"] == "error" and lines[-1]["type"].endswith("deadline-passed") and lines[-1]["retriable"]
        )
        with pytest.raises(httpx.RemoteProtocolError):
            ask(client, clip)
        assert time.monotonic() - began < 5
        wait_for(server.free, 1.0)


def test_a_deadline_before_the_first_byte_is_a_plain_answer(loop: Loop, settings, clip):
    parts = Slow(loop.parts)
    with local_server(loop, settings(limits={"deadline_s": 0.2}), parts) as server, server.client() as client:
        parts.see_s = 5.0
        began = time.monotonic()
        for form in ("wav", "events", "mp4"):
            body = problem(ask(client, clip, format=form), 504, "deadline-passed")
            assert body["retriable"]
        assert time.monotonic() - began < 3.0
        name = ask(client, clip, mode="async").json()["id"]
        assert finished(client, name)["error"]["type"].endswith("deadline-passed")
        wait_for(server.free, 1.0)


def test_when_it_is_full_the_next_is_sent_away_at_once(loop: Loop, settings, clip):
    parts = Slow(loop.parts)
    chosen = settings(limits={"running": 2, "waiting": 1})
    with local_server(loop, chosen, parts) as server, server.client() as client:
        parts.see_s = 0.5
        names = [ask(client, clip, mode="async", seconds=0.2).json()["id"] for _ in range(3)]
        wait_for(lambda: (server.service.gate.inside, server.service.gate.queued) == (2, 1), 0.4)
        for mode in ("stream", "async"):
            began = time.monotonic()
            refused = ask(client, clip, mode=mode)
            assert problem(refused, 429, "busy")["retriable"] and int(refused.headers["retry-after"]) >= 1
            assert time.monotonic() - began < 1.0
        assert [finished(client, name)["status"] for name in names] == ["succeeded"] * 3


def test_without_a_queue_there_is_still_work_in_the_background(loop: Loop, settings, clip):
    chosen = settings(limits={"running": 2, "waiting": 0})
    with local_server(loop, chosen) as server, server.client() as client:
        for takes in (1, 2, 8):
            name = ask(client, clip, mode="async", seconds=0.2, takes=takes).json()["id"]
            assert finished(client, name)["status"] == "succeeded"


def _left(settings: Settings, clip: Path, mode: str, folder: Path) -> str:
    """A generation as a process that died in the middle of it leaves it."""
    spool = Spool(Path(settings.spool), 3600.0)
    upload = folder / "upload"
    upload.write_bytes(clip.read_bytes())
    record = spool.new(Order(seed=3), mode, "anybody", upload)  # type: ignore[arg-type]
    record.status = "running"
    spool.save(record)
    spool.beat(record.id)
    for file in ("beat", "generation.json"):
        os.utime(spool.place(record.id) / file, (time.time() - 60, time.time() - 60))
    return record.id


@pytest.fixture
def impatient(monkeypatch) -> None:
    """Silence is noticed within a second."""
    monkeypatch.setattr(service_module, "_SILENCE_S", 0.9)
    monkeypatch.setattr(performing_module, "_BEAT_S", 0.2)


def test_what_a_dead_process_left_is_taken_over_by_exactly_one(
    loop: Loop, settings: Callable[..., Settings], clip, tmp_path, impatient
):
    chosen = settings()
    names = [_left(chosen, clip, "async", tmp_path) for _ in range(6)]
    stream = _left(chosen, clip, "stream", tmp_path)
    with local_server(loop, chosen) as first, local_server(loop, chosen) as second, first.client() as client:
        records = [finished(client, name) for name in names]
        assert {record["status"] for record in records} == {"succeeded"}
        lost = finished(client, stream)
        assert lost["status"] == "failed" and lost["error"]["type"].endswith("process-lost")
        assert lost["error"]["retriable"]
        time.sleep(1.0)  # a second look finds nothing more to do
        assert first.counts.happened["finished"] + second.counts.happened["finished"] == len(names)
        wav = client.get(records[0]["takes"][0]["files"]["wav"]).content
        assert wav[-1000:] == ask(client, clip, seed=3).content[-1000:]


def test_what_kills_every_process_is_given_up(loop: Loop, settings, clip, tmp_path, impatient):
    chosen = settings()
    name = _left(chosen, clip, "async", tmp_path)
    spool = Spool(Path(chosen.spool), 3600.0)
    record = spool.load(name)
    record.attempts = 2
    spool.save(record)
    with local_server(loop, chosen) as server, server.client() as client:
        assert finished(client, name)["error"]["type"].endswith("process-lost")


def test_deleting_reaches_the_process_that_works(loop: Loop, settings, long_clip, impatient):
    """Whatever process of the service gets the request."""
    chosen = settings()
    servers = local_server(loop, chosen), local_server(loop, chosen)
    with servers[0] as first, servers[1] as second, first.client() as client, second.client() as other:
        place = ask(client, long_clip, mode="async", takes=8).headers["location"]
        wait_for(lambda: first.service.gate.inside == 8, 10.0)
        assert other.delete(place).status_code == 204
        wait_for(first.free, 2.0)
        assert client.get(place).status_code == 404
        assert not first.service.spool.place(place.rpartition("/")[2]).exists()


def test_ending_the_service_gives_up_what_is_under_way(loop: Loop, settings, long_clip):
    with local_server(loop, settings()) as server, server.client() as client, suppress(httpx.HTTPError):
        ask(client, long_clip, mode="async", takes=4)
    wait_for(server.free, 1.0)
    assert server.service.performing == {}
