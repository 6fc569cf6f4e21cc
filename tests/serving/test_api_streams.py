"""Compressed streams over HTTP: heard as they are made, the same music, and no piece that passes for a whole."""

import io
import socket
import time
from pathlib import Path
from typing import NoReturn

import av
import httpx
import numpy as np
import pytest
from local_server import LocalServer, Loop, ask, finished, local_server
from processes import wait_for
from test_api_leaving import Slow, _form, _leave
from test_performance import Failing

from v2meow.media import OggOpus, Reader, Scoring

FORMATS = {"ogg": "audio/ogg", "fmp4": "video/mp4"}


def _heard(content: bytes) -> np.ndarray:
    """All that a player decodes, at 16 kHz."""
    resampler = av.AudioResampler("flt", "mono", 16_000)
    with av.open(io.BytesIO(content), "r") as file:
        frames = [part for frame in file.decode(audio=0) for part in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in frames + resampler.resample(None)])


def _made(wav: bytes) -> np.ndarray:
    return np.frombuffer(wav[wav.index(b"data") + 8 :], "<i2").astype(np.float32) / 32767


def _spectrum(sound: np.ndarray) -> np.ndarray:
    """Mean level in dB of 32 bands."""
    windows = sound[: len(sound) // 1024 * 1024].reshape(-1, 1024) * np.hanning(1024)
    power = (np.abs(np.fft.rfft(windows)) ** 2).mean(0)[1:]
    return 10 * np.log10(power.reshape(32, 16).mean(1) + 1e-9)


@pytest.mark.parametrize("form", FORMATS)
def test_the_stream_is_the_music_of_the_wav(client, clip, form):
    answer = ask(client, clip, seed=3, prompt="loud bells", format=form)
    assert (answer.status_code, answer.headers["content-type"]) == (200, FORMATS[form])
    assert answer.headers["transfer-encoding"] == "chunked" and "content-length" not in answer.headers
    made, heard = _made(ask(client, clip, seed=3, prompt="loud bells").content), _heard(answer.content)
    assert len(heard) == pytest.approx(len(made), abs=0.02 * 16_000)
    assert np.abs(made).max() > 0.01, "there is nothing to hear"
    count = min(len(heard), len(made))
    assert np.corrcoef(heard[:count], made[:count])[0, 1] > 0.9
    assert np.abs(_spectrum(heard) - _spectrum(made))[:24].max() < 3.0  # below 6 kHz, dB
    assert client.get(f"/v1/generations/{answer.headers['x-generation-id']}").json()["status"] == "succeeded"


def test_the_same_request_gives_the_same_bytes(client, clip):
    for form in FORMATS:
        first, second, other = (ask(client, clip, seed=seed, format=form).content for seed in (5, 5, 6))
        assert first == second != other


def test_the_streamed_picture_is_all_there(client, clip, reader: Reader, tmp_path):
    (tmp_path / "out.mp4").write_bytes(ask(client, clip, format="fmp4").content)
    about = reader.probe(tmp_path / "out.mp4")
    assert about.seconds == pytest.approx(2.6, abs=0.02) and (about.width, about.height) == (64, 64)
    shown = [reader.frames(path, 10, 32) for path in (clip, tmp_path / "out.mp4")]
    assert np.array_equal(shown[0], shown[1])


@pytest.mark.parametrize("form", FORMATS)
def test_it_says_where_it_comes_from(client, clip, form):
    answer = ask(client, clip, seed=3, prompt="loud bells", format=form)
    with av.open(io.BytesIO(answer.content), "r") as file:
        told = (file.metadata | file.streams.audio[0].metadata)["comment"]
    assert '"seed":3' in told and answer.headers["x-model-digest"] in told
    assert b"loud bells" not in answer.content  # files travel, words are private


@pytest.mark.parametrize("form", FORMATS)
def test_sound_comes_before_the_piece_is_finished(loop: Loop, settings, long_clip, form):
    """Nearly a second of it can be heard when a second was made."""
    parts = Slow(loop.parts, sound=0.0)
    with local_server(loop, settings(), parts) as server, server.client() as client:
        parts.sound_s = 0.3
        files, data = {"video": long_clip.read_bytes()}, {"format": form, "seconds": "6"}
        with client.stream("POST", "/v1/generations", files=files, data=data) as answer:
            coming = answer.iter_raw()
            first = next(coming)
            status = client.get(f"/v1/generations/{answer.headers['x-generation-id']}").json()["status"]
            assert status == "running"
            assert len(_heard(first)) > 0.6 * 16_000  # a chunk of 1 s, less the fade of 0.1 s that may follow
            rest = first + b"".join(coming)
        assert len(_heard(rest)) >= 5.98 * 16_000


def _broken_off(client: httpx.Client, video: Path, form: str) -> tuple[bytes, str]:
    """What comes of 12 s of music before the stream breaks off, as it must, and the generation's id."""
    files, data = {"video": video.read_bytes()}, {"format": form, "seconds": "12"}
    come = b""
    with (
        pytest.raises(httpx.RemoteProtocolError),
        client.stream("POST", "/v1/generations", files=files, data=data) as answer,
    ):
        for chunk in answer.iter_raw():
            come += chunk
    return come, answer.headers["x-generation-id"]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("part", ["fine", "codec"])
def test_a_stream_that_fails_never_passes_for_a_whole_one(loop: Loop, settings, long_clip, form, part):
    """It breaks off without the last chunk: some of it has come, and every client says that it is not all."""
    parts = Failing(loop.parts, part, 1_000_000)
    with local_server(loop, settings(), parts) as server, server.client() as client:
        parts._left = 3
        come, _ = _broken_off(client, long_clip, form)
        if part == "codec":  # the third second of it; windows of a stage are asked for before anything is heard
            assert len(_heard(come)) > 8_000
        wait_for(server.free, 2.0)
        assert {record.status for record in server.service.spool.records()} == {"failed"}


class FailingOgg(OggOpus):
    """Cannot write its third part."""

    def add(self, samples: np.ndarray) -> bytes:
        if self._place >= 2 * 16_000:
            raise OSError("no more pages")
        return super().add(samples)


class FailingScoring(Scoring):
    """Its process dies before the third part."""

    _parts = 0

    def add(self, samples: np.ndarray) -> bytes:
        self._parts += 1
        if self._parts == 3:
            self._child.kill()
        return super().add(samples)


@pytest.mark.parametrize(
    ("form", "name", "encoder", "kind"),
    [("ogg", "OggOpus", FailingOgg, "internal-error"), ("fmp4", "Scoring", FailingScoring, "unusable-video")],
)
def test_an_encoder_that_fails_is_a_failure_and_no_client_who_left(
    loop: Loop, settings, long_clip, monkeypatch, form, name, encoder, kind
):
    """The record says what went wrong; the stream breaks off, and what has come is no file that looks whole."""
    monkeypatch.setattr(f"serving.answers.{name}", encoder)
    with local_server(loop, settings()) as server, server.client() as client:
        come, name = _broken_off(client, long_clip, form)
        assert 8_000 < len(_heard(come)) < 10 * 16_000
        record = finished(client, name)
        assert record["status"] == "failed" and record["error"]["type"].endswith(kind)
        assert server.counts.happened[kind] == 1
        wait_for(server.free, 2.0)


def test_an_encoder_that_fails_at_the_very_end_leaves_the_music(loop: Loop, settings, clip, monkeypatch):
    """All of it was made and kept: the stream breaks off, and the take can be had by its address."""

    def broken(_: OggOpus) -> NoReturn:
        raise OSError("no last page")

    monkeypatch.setattr(OggOpus, "end", broken)
    with local_server(loop, settings()) as server, server.client() as client:
        data = {"format": "ogg", "seed": "3"}
        with (
            pytest.raises(httpx.RemoteProtocolError),
            client.stream("POST", "/v1/generations", files={"video": clip.read_bytes()}, data=data) as answer,
        ):
            answer.read()
        record = finished(client, answer.headers["x-generation-id"])
        assert record["status"] == "succeeded"
        assert client.get(record["takes"][0]["files"]["wav"]).content == ask(client, clip, seed=3).content
        wait_for(server.free, 2.0)


def test_a_client_without_chunks_gets_the_whole_or_an_error(server: LocalServer, clip):
    """HTTP/1.0, which some proxies speak: there the end of the connection is the end of the answer."""
    for form in FORMATS:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(_form(clip, format=form).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
            content = b""
            while part := connection.recv(1 << 16):
                content += part
        head, _, body = content.partition(b"\r\n\r\n")
        assert f"content-length: {len(body)}".encode() in head.lower()
        assert len(_heard(body)) == pytest.approx(2.6 * 16_000, abs=0.02 * 16_000)


def test_clients_who_leave_leave_no_process_behind(loop: Loop, settings, clip):
    """At all moments, as the encoder may be starting, working or done. One is kept for the next."""
    with local_server(loop, settings(limits={"running": 4, "waiting": 100})) as server, server.client() as client:
        assert ask(client, clip, seconds=0.2).status_code == 200
        before = _children()  # what looks at videos stays
        for number in range(24):
            form = _form(clip, format=("fmp4", "ogg")[number % 2])
            _leave(server, form, (0, 1, 400, 5_000, 12_000)[number % 5])
            time.sleep(0.05 * (number % 4))
        wait_for(server.free, 20.0)
        assert server.service.performing == {}
        wait_for(lambda: len(_children() - before) <= 1, 20.0)
    wait_for(lambda: _children() <= before, 20.0)


def _children() -> set[int]:
    """Processes that read videos for this one's streams."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found |= {int(pid) for pid in (task / "children").read_text().split()}
    return {pid for pid in found if b"v2meow.media.child" in Path(f"/proc/{pid}/cmdline").read_bytes()}


def test_finished_takes_can_be_had_as_ogg(client, clip):
    """Several takes, the background and a repeated request alike; the music is that of the WAV."""
    name = ask(client, clip, mode="async", seed=3, takes=2).json()["id"]
    for take in finished(client, name)["takes"]:
        assert set(take["files"]) == {"wav", "ogg", "mp4", "json"}
        answer = client.get(take["files"]["ogg"])
        assert answer.headers["content-type"] == "audio/ogg" and ".ogg" in answer.headers["content-disposition"]
        made, heard = _made(client.get(take["files"]["wav"]).content), _heard(answer.content)
        assert np.corrcoef(heard[: len(made)], made[: len(heard)])[0, 1] > 0.9
    best = ask(client, clip, seed=3, takes=2, format="ogg")
    assert int(best.headers["content-length"]) == len(best.content)
    for form in FORMATS:
        key = {"Idempotency-Key": form}
        first, again = (ask(client, clip, seed=3, format=form, headers=key) for _ in range(2))
        assert first.headers["x-generation-id"] == again.headers["x-generation-id"]
        assert again.headers["content-type"] == FORMATS[form]
        assert np.corrcoef(_heard(first.content)[:40_000], _heard(again.content)[:40_000])[0, 1] > 0.95


def test_a_video_that_cannot_be_scored_breaks_the_stream_off(loop: Loop, settings, clip, monkeypatch):
    """The music was made; what was promised is the video."""

    def broken(*_: object) -> None:
        raise OSError("no process")

    with local_server(loop, settings()) as server, server.client() as client:
        monkeypatch.setattr("serving.answers.Scoring", broken)
        with pytest.raises(httpx.RemoteProtocolError):
            ask(client, clip, format="fmp4")
        wait_for(server.free, 2.0)
        assert {record.status for record in server.service.spool.records()} == {"failed"}
        assert ask(client, clip, seconds=0.2).status_code == 200


def test_the_document_tells_of_all_media_types(client):
    paths = client.get("/openapi.json").json()["paths"]
    made = paths["/v1/generations"]["post"]
    kinds = {"audio/wav", "audio/ogg", "video/mp4", "application/json"}
    assert set(made["responses"]["200"]["content"]) == kinds | {"application/x-ndjson"}
    take = paths["/v1/generations/{name}/takes/{take}"]["get"]
    assert set(take["responses"]["200"]["content"]) == kinds
    form = made["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]["format"]
    assert set(form["enum"]) == {"wav", "ogg", "mp4", "fmp4", "events"}
