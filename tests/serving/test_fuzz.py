"""Requests that no client means: none may end in a 5xx, hang, or take a place away from those who mean theirs."""

import random
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from local_server import LocalServer, Loop, ask, local_server
from malformed import malformed, send
from processes import wait_for
from schemathesis import Case, GenerationMode
from schemathesis.core.result import Ok

from serving.settings import Settings

_CASES = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)

_NEVER_WRONG = ("/v1/models", "/v1/generations/{name}")  # by the document: there any text is a name


@pytest.fixture(scope="module")
def server(loop: Loop, tiny_model, tmp_path_factory) -> Iterator[LocalServer]:
    values = {
        "models": [{"name": str(tiny_model)}],
        "spool": str(tmp_path_factory.mktemp("spool")),
        "open": True,
        "sources": ["s3://videos"],
        "limits": {"upload_mib": 1, "upload_s": 5.0, "max_seconds": 1.0},
    }
    with local_server(loop, Settings.model_validate(values)) as server:
        yield server


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_requests_made_from_the_interfaces_own_document_are_answered(server: LocalServer, mode):
    """Right ones and wrong ones, by Schemathesis: what it says of itself must hold."""
    asked: Counter[int] = Counter()
    for result in schemathesis.openapi.from_url(f"{server.url}/openapi.json").get_all_operations():
        assert isinstance(result, Ok)
        operation = result.ok()
        if mode is GenerationMode.NEGATIVE and operation.path in _NEVER_WRONG:
            continue

        @_CASES
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: Case) -> None:
            answer = case.call(timeout=20)
            asked[answer.status_code] += 1
            assert answer.status_code < 500, answer.text
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == ["application/problem+json"], answer.text
                assert set(answer.json()) >= {"type", "title", "status", "detail", "retriable"}

        check()
    assert sum(asked.values()) >= 20, asked
    wait_for(server.free, 5.0)


def test_malformed_requests_are_answered_or_cut_off(server: LocalServer):
    rest = random.Random(0)
    statuses = Counter(send(server.port, malformed(rest)) for _ in range(250))
    assert max(statuses) < 500, statuses
    assert {400, 404, 422} <= set(statuses)
    wait_for(server.free, 5.0)


def test_giant_headers_do_no_harm(server: LocalServer):
    for head in (b"X: " + b"x" * 200_000, b"".join(b"X%d: y\r\n" % number for number in range(20_000))):
        assert 200 <= send(server.port, b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n") < 500


def test_slow_clients_do_not_keep_others_waiting(server: LocalServer, clip):
    """Twenty of them say a byte now and then, in the head and in the body."""
    head = b"POST /v1/generations HTTP/1.1\r\nHost: x\r\n"
    body = head + b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 100000\r\n\r\n--b"
    with ExitStack() as stack, server.client() as client:
        sockets = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(20)]
        for number, connection in enumerate(sockets):
            connection.sendall(body if number % 2 else head)
        for _ in range(6):
            began = time.monotonic()
            assert ask(client, clip, seconds=0.2).status_code == 200
            assert time.monotonic() - began < 5.0
            for connection in sockets:
                connection.sendall(b"x")
            time.sleep(0.4)
    wait_for(server.free, 5.0)
