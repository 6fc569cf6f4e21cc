"""Compressed streams and slow heads under Ray Serve, whose proxies stand between a client and the application."""

import io
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import av
import httpx
import pytest
import tiny_bundle
from processes import wait_for
from service_process import ServiceProcess

from serving.patience import PatientProtocol

pytestmark = pytest.mark.slow

DEADLINE_S, RECOVERY_S = 6.0, 30.0
FORMATS = ["ogg", "fmp4"]


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[ServiceProcess]:
    folder = tmp_path_factory.mktemp("service")
    limits = {"deadline_s": DEADLINE_S, "max_seconds": 600.0}
    running = ServiceProcess(folder, {"spool": str(folder / "spool"), "open": True, "limits": limits})
    yield running
    running.kill()


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """Longer than music can be made for before the deadline."""
    return tiny_bundle.silent_video(tmp_path_factory.mktemp("video") / "clip.mp4", 600.0)


def _form(video: Path, **fields: str) -> dict:
    return {"files": {"video": video.read_bytes()}, "data": fields, "timeout": 60.0}


def _seconds(content: bytes) -> float:
    """How much of it can be heard."""
    with av.open(io.BytesIO(content), "r") as file:
        return sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0))


@pytest.mark.parametrize("form", FORMATS)
def test_a_stream_passes_through_a_proxy(service, video, form):
    """Chunk by chunk: sound is there before the last of it was made."""
    with httpx.stream(
        "POST", f"{service.url}/v1/generations", **_form(video, format=form, seconds="3", seed="1")
    ) as answer:
        parts = list(answer.iter_raw())
    assert answer.status_code == 200 and answer.headers["transfer-encoding"] == "chunked"
    assert len(parts) > 2
    content = b"".join(parts)
    assert _seconds(content) == pytest.approx(600.0 if form == "fmp4" else 3.0, abs=0.03)


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_not_done_before_the_deadline_breaks_off(service, video, form):
    """The proxy must not end the answer in good order for the application that did not."""
    come = b""
    with (
        pytest.raises(httpx.RemoteProtocolError),
        httpx.stream("POST", f"{service.url}/v1/generations", **_form(video, format=form)) as answer,
    ):
        for part in answer.iter_raw():
            come += part
    assert 1.0 < _seconds(come) < 600.0


def test_heads_that_dribble_in_are_closed_by_the_proxy(service):
    with ExitStack() as stack:
        address = ("127.0.0.1", service.port)
        slow = [stack.enter_context(socket.create_connection(address)) for _ in range(100)]
        began = time.monotonic()
        for connection in slow:
            connection.settimeout(0.2)
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ")
        answer = b""
        while not answer:
            assert time.monotonic() - began < PatientProtocol.head_s + 5.0, "the connection is still open"
            assert service.ready()
            try:
                slow[0].sendall(b"x")
                answer = slow[0].recv(4096)
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - began > PatientProtocol.head_s - 1.0
        for connection in slow[1:]:
            connection.settimeout(5.0)
            assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("form", FORMATS)
def test_a_dead_ingress_breaks_its_streams_off(service, video, form):
    """Half of the music in a file that looks whole is what no listener may get."""
    with (
        pytest.raises(httpx.RemoteProtocolError),
        httpx.stream("POST", f"{service.url}/v1/generations", **_form(video, format=form)) as answer,
    ):
        for number, _ in enumerate(answer.iter_raw()):
            if number == 1:
                for pid in service.replicas("Ingress"):
                    os.kill(pid, signal.SIGKILL)
    wait_for(service.ready, RECOVERY_S)
    wait_for(lambda: len(service.replicas("Ingress")) == 1, RECOVERY_S)
