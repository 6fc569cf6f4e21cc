"""What a bad request gets over HTTP: a problem of the one form, whatever is wrong, and never a secret."""

import logging
import socket

import httpx
import pytest
from local_server import Loop, ask, local_server, problem

from serving import keys
from serving.settings import Settings


@pytest.fixture(scope="module")
def server(loop: Loop, tiny_model, tmp_path_factory):
    settings = Settings.model_validate(
        {
            "models": [{"name": str(tiny_model)}],
            "spool": str(tmp_path_factory.mktemp("spool")),
            "open": True,
            "sources": ["s3://videos"],
            "limits": {"upload_mib": 1, "upload_s": 1.0, "max_seconds": 10.0, "max_takes": 2},
        }
    )
    with local_server(loop, settings) as server:
        yield server


def test_hostile_files_are_refused_with_a_reason_or_become_music(loop: Loop, settings, media_folder):
    """Strangers upload what they like."""
    statuses = {}
    with local_server(loop, settings()) as server, server.client() as client:
        for path in sorted((media_folder / "hostile").iterdir()):
            answer = ask(client, path, seconds=0.2)
            statuses[path.name] = answer.status_code
            if answer.status_code == 422:
                body = problem(answer, 422, "unusable-video")
                assert body["detail"].startswith("the video cannot be used: ") and not body["retriable"]
                assert str(server.service.spool.folder) not in body["detail"]
            else:
                assert (answer.status_code, len(answer.content) > 1000) == (200, True), (path.name, answer.text)
        assert server.free()
    assert set(statuses.values()) == {200, 422}


@pytest.mark.parametrize("told", [True, False], ids=["with its length", "in chunks"])
def test_an_upload_that_is_too_large(client, told):
    body = httpx.Request("POST", "http://x", files={"video": bytes(3 << 20)})
    content = body.read()
    blocks = (content[place : place + 65536] for place in range(0, len(content), 65536))
    headers = {"Content-Type": body.headers["content-type"]}
    answer = client.post("/v1/generations", content=content if told else blocks, headers=headers)
    problem(answer, 413, "too-large")


def test_an_upload_that_is_too_slow(server):
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        head = "POST /v1/generations HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n--b".encode())
        answer = connection.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 408") and "application/problem+json" in answer


@pytest.mark.parametrize(
    ("request_", "status", "kind"),
    [
        (("POST", "/v1/generations", {"json": {}}), 415, "not-a-form"),
        (("POST", "/v1/generations", {"data": {"prompt": "x"}}), 415, "not-a-form"),
        (("POST", "/v1/generations", {"files": {"other": b"x"}}), 422, "invalid-fields"),
        (("POST", "/v1/generations", {"files": {"video": b""}}), 422, "unusable-video"),
        (("POST", "/v1/generations", {"files": {"video": b"text"}}), 422, "unusable-video"),
        (("POST", "/v1/generations", {"files": {"video": b"x"}, "data": {"prompt": " "}}), 422, "unusable-prompt"),
        (("POST", "/v1/generations", {"files": {"video": b"x"}, "data": {"takes": "3"}}), 422, "invalid-fields"),
        (("POST", "/v1/generations", {"files": {"source": (None, "file:///etc/passwd")}}), 403, "source-not-allowed"),
        (("POST", "/v1/generations", {"files": {"source": (None, "http://x/y")}}), 403, "source-not-allowed"),
        (("POST", "/v1/generations", {"files": {"source": (None, "s3://videos-evil/y")}}), 403, "source-not-allowed"),
        (("GET", "/v1/generations/x", {}), 404, "no-such-generation"),
        (("GET", f"/v1/generations/{'0' * 32}", {}), 404, "no-such-generation"),
        (("DELETE", f"/v1/generations/{'0' * 32}", {}), 404, "no-such-generation"),
        (("GET", f"/v1/generations/{'0' * 32}/takes/1", {}), 404, "no-such-generation"),
        (("GET", f"/v1/generations/{'0' * 32}/takes/x", {}), 422, "invalid-fields"),
        (("GET", f"/v1/generations/{'0' * 32}/takes/1?format=exe", {}), 422, "invalid-fields"),
        (("GET", "/v1/generations/..%2f..%2fetc%2fpasswd", {}), 404, "not-found"),
        (("GET", "/nothing", {}), 404, "not-found"),
        (("GET", "/%00", {}), 404, "not-found"),
        (("GET", f"/{'x' * 5000}", {}), 404, "not-found"),
        (("GET", "/..%2f..%2fapi.py", {}), 404, "not-found"),
        (("PUT", "/v1/generations", {}), 405, "method-not-allowed"),
        (("POST", "/v1/models", {}), 405, "method-not-allowed"),
        (("PATCH", f"/v1/generations/{'0' * 32}", {}), 405, "method-not-allowed"),
    ],
    ids=lambda value: " ".join(map(str, value[:2])) if isinstance(value, tuple) else None,
)
def test_every_refusal_has_the_form_of_a_problem(client, request_, status, kind):
    method, path, options = request_
    problem(client.request(method, path, **options), status, kind)


def test_head_has_no_body(client):
    for path in ("/v1/models", "/nothing", "/v1/generations"):
        answer = client.head(path)
        assert answer.status_code < 500 and answer.content == b""


@pytest.fixture
def guarded(loop: Loop, settings, tmp_path):
    """A service with keys: alice's and bob's, and one of carol, who may do little."""
    file = tmp_path / "keys.json"
    secrets = {name: keys.create(file, name, per_minute=60, concurrent=4, days=None) for name in ("alice", "bob")}
    secrets["carol"] = keys.create(file, "carol", per_minute=4, concurrent=1, days=None)
    with local_server(loop, settings(keys=str(file))) as server:
        yield server, file, secrets


def test_a_generation_is_its_owners_alone(guarded, clip):
    server, _, secrets = guarded
    alice, bob = ({"Authorization": f"Bearer {secrets[name]}"} for name in ("alice", "bob"))
    with server.client() as client:
        answer = ask(client, clip, headers=alice, seconds=0.2)
        place = f"/v1/generations/{answer.headers['x-generation-id']}"
        for path in (place, f"{place}/takes/1"):
            assert client.get(path, headers={"X-API-Key": secrets["alice"]}).status_code == 200
            problem(client.get(path, headers=bob), 404, "no-such-generation")
            problem(client.get(path), 401, "key-missing")
        problem(client.delete(place, headers=bob), 404, "no-such-generation")
        assert client.get(place, headers=alice).status_code == 200
        assert "alice" not in client.get(place, headers=alice).text
        both = [ask(client, clip, headers=one | {"Idempotency-Key": "k"}, seconds=0.2) for one in (alice, bob)]
        assert len({one.headers["x-generation-id"] for one in both}) == 2


def test_limits_of_a_key_hold_and_free_up(guarded, clip, long_clip):
    server, _, secrets = guarded
    carol = {"Authorization": f"Bearer {secrets['carol']}"}
    with server.client() as client:
        place = ask(client, long_clip, headers=carol, mode="async", takes=8).headers["location"]
        problem(ask(client, clip, headers=carol), 429, "too-many-at-once")
        assert client.delete(place, headers=carol).status_code == 204
        assert ask(client, clip, headers=carol, seconds=0.2).status_code == 200
        assert ask(client, clip, headers=carol, seconds=0.2, takes=9).status_code == 422
        refused = ask(client, clip, headers=carol, seconds=0.2)
        problem(refused, 429, "too-often")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert server.doorkeeper._at_work == {"carol": 0}


def test_a_file_of_keys_that_vanishes_closes_the_door_and_no_more(guarded, clip):
    server, file, secrets = guarded
    alice = {"Authorization": f"Bearer {secrets['alice']}"}
    with server.client() as client:
        content = file.read_text()
        file.unlink()
        for answer in (client.get("/v1/models", headers=alice), ask(client, clip, headers=alice)):
            assert problem(answer, 503, "keys-unavailable")["retriable"]
            assert str(file) not in answer.text
        assert client.get("/healthz").status_code == 200
        file.write_text(content)
        assert client.get("/v1/models", headers=alice).status_code == 200


def test_no_key_is_told_or_written_anywhere(guarded, clip, caplog):
    server, file, secrets = guarded
    caplog.set_level(logging.DEBUG)
    answers = []
    with server.client() as client:
        for headers in (
            {"Authorization": f"Bearer {secrets['alice']}"},
            {"X-API-Key": secrets["alice"]},
            {"Authorization": f"Bearer {secrets['alice']}x"},
            {"Authorization": f"Basic {secrets['alice']}"},
        ):
            for path in ("/v1/models", "/metrics", "/v1/generations/x", "/nothing"):
                answers.append(client.get(path, headers=headers))
            answers.append(ask(client, clip, headers=headers, seconds=0.2))
            answers.append(ask(client, clip, headers=headers, seconds=0.2, format="events"))
        file.unlink()
        answers.append(client.get("/v1/models", headers={"X-API-Key": secrets["alice"]}))
    kept = [path for path in server.service.spool.folder.rglob("*") if path.is_file()]
    texts = [answer.content + str(answer.headers).encode() for answer in answers]
    texts += [path.read_bytes() for path in kept] + [
        record.getMessage().encode() for record in caplog.records if record.name.startswith(("v2meow", "uvicorn"))
    ]
    assert len(texts) > 25 and not any(secrets["alice"][:-1].encode() in text for text in texts)
