"""The server of a study over HTTP: what it gives away, what it takes, and what it refuses."""

import json
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import httpx
import pytest
from study_server import ballot, running

from v2meow.evaluate.study.design import INVITATIONS, MEDIA, StudyError, read_study
from v2meow.evaluate.study.order import plan, rater_of
from v2meow.evaluate.study.serve import invitations, open_ballots, serve


def _pairs(server, token="rater-one"):
    return plan(server.study, rater_of(server.study, token))


def test_the_plan_shows_every_pair_and_tells_nothing_of_systems_or_checks(served):
    """One name in one answer, and whoever opens the developer tools is not blind any more."""
    with served.client() as client:
        answer = client.get("/v1/plan")
        given = answer.json()
        assert [pair["id"] for pair in given["pairs"]] == [shown.pair.id for shown in _pairs(served)]
        for pair, shown in zip(given["pairs"], _pairs(served), strict=True):
            assert set(pair) == {"id", "left", "right"}
            assert pair["left"] == f"media/{served.study.items[shown.left].file}"
        texts = [answer.text, *(client.get(f"/{name}").text for name in ("", "study.js", "outbox.js"))]
        for word in ("falcon", "badger", "silent", "compare", "mismatched", "beach"):
            assert not any(word in text for text in texts), word
        assert answer.headers["cache-control"] == "no-store"


def test_media_come_whole_and_in_parts_and_nothing_else_does(served, study_folder):
    """Safari plays no video without ranges; a path that climbs must reach neither the design nor the ratings."""
    with served.client(None) as client:
        name = next(iter(served.study.items.values())).file
        content = (study_folder / MEDIA / name).read_bytes()
        whole = client.get(f"/media/{name}")
        assert (whole.content, whole.headers["content-type"]) == (content, "video/mp4")
        part = client.get(f"/media/{name}", headers={"Range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, content[10:20])
        climbing = ("media/../study.json", "media/..%2fstudy.json", "media/%2e%2e/study.json", "..%2f..%2fdesign.py")
        for path in (*climbing, "media//etc/passwd", "study.json", "media/x.mp4", "openapi.json", "docs"):
            assert served_raw(served, path) in (404, 405), path


def served_raw(server, path):
    """The status of a path that no client has tidied up."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as line:
        line.sendall(f"GET /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return int(line.recv(4096).split()[1])


def test_every_answer_keeps_the_browser_in_bounds(served):
    """Errors and media among them: the token stands in the page's address and must not leave it."""
    with served.client() as client:
        paths = ("/", "/style.css", "/v1/plan", "/nowhere", f"/media/{next(iter(served.study.items.values())).file}")
        for path in paths:
            headers = client.get(path).headers
            assert "default-src 'none'" in headers["content-security-policy"], path
            assert headers["referrer-policy"] == "no-referrer" and headers["x-content-type-options"] == "nosniff"
            assert "cache-control" in headers


def test_a_rating_is_stored_as_it_was_shown_and_the_plan_knows_it(served):
    shown = _pairs(served)[0]
    with served.client() as client:
        first = client.post("/v1/ratings", json=ballot(shown.pair.id, choice=-2))
        again = client.post("/v1/ratings", json=ballot(shown.pair.id, choice=-2))
        other = client.post("/v1/ratings", json=ballot(shown.pair.id, choice=1, key="x" * 16))
        reused = client.post("/v1/ratings", json=ballot(_pairs(served)[1].pair.id))
        assert [one.status_code for one in (first, again, other, reused)] == [201, 200, 409, 422]
        assert client.get("/v1/plan").json()["done"] == [[shown.pair.id, "fit"]]
    with served.client("rater-two") as client:
        assert client.get("/v1/plan").json()["done"] == []
    (stored,) = served.ratings()
    assert (stored.choice, stored.swapped, stored.heard_left_s) == (-2, shown.swapped, 1.5)
    assert "rater-one" not in stored.rater


_UNTRUE = [
    *({"choice": 3}, {"choice": -3}, {"choice": 0.5}, {"choice": True}, {"choice": "1"}, {"choice": None}),
    *({"question": "taste"}, {"pair": "p999"}, {"pair": "x" * 17}, {"pair": 1}, {"key": "short"}, {"key": "k" * 65}),
    *({"key": "ключ" * 8}, {"heard_left_s": -1}, {"heard_right_s": 1e9}, {"more": 1}),
]


def test_a_rating_that_cannot_be_true_is_refused_in_a_line(served):
    with served.client() as client:
        for change in _UNTRUE:
            answer = client.post("/v1/ratings", json=ballot(_pairs(served)[0].pair.id) | change)
            assert answer.status_code == 422 and "\n" not in answer.json()["detail"], change
    assert served.ratings() == []


def test_bodies_that_are_no_ratings_are_refused_before_they_fill_memory(served):
    """Not a number would break every later mean; a body without end would take all memory."""
    text = json.dumps(ballot(_pairs(served)[0].pair.id))
    with served.client() as client:
        for body in (b"", b"[]", b"\xff\xfe", b"{" * 1500, text.replace("1.5", "NaN").encode(), b"null"):
            assert client.post("/v1/ratings", content=body).status_code == 422, body
        assert client.post("/v1/ratings", content=b" " * 2049).status_code == 413
        chunks = (b" " * 1000 for _ in range(1000))
        assert client.post("/v1/ratings", content=chunks).status_code == 413
    assert served.ratings() == []


def test_a_token_that_is_none_lets_nobody_in(served):
    for token in (None, "short", "x" * 65, "../../etc", "späß" * 3):
        headers = {} if token is None else {b"Authorization": f"Bearer {token}".encode()}
        for method, path in (("GET", "/v1/plan"), ("POST", "/v1/ratings")):
            assert httpx.request(method, served.url + path, headers=headers).status_code == 401, token


def test_only_the_invited_can_rate_where_there_are_invitations(study_folder, tmp_path):
    with running(study_folder, tmp_path / "r.sqlite", invited=["guest-token"]) as server:
        with server.client("guest-token") as client:
            assert client.get("/v1/plan").status_code == 200
        with server.client("rater-one") as client:
            assert client.get("/v1/plan").status_code == 401


def test_a_full_study_says_so_to_new_raters_alone(served):
    """Of four raters it wants; the fifth is told, the first goes on."""
    for number in range(5):
        token = f"rater-number-{number}"
        with served.client(token) as client:
            answer = client.post("/v1/ratings", json=ballot(_pairs(served, token)[0].pair.id))
            assert answer.status_code == (201 if number < 4 else 403)
    token = "rater-number-0"
    with served.client(token) as client:
        answer = client.post("/v1/ratings", json=ballot(_pairs(served, token)[1].pair.id, key="l" * 16))
        assert answer.status_code == 201


def test_one_rating_sent_by_many_at_once_is_stored_once(served):
    """The page and a second tab send what waits at the same moment."""
    body = ballot(_pairs(served)[0].pair.id)
    with served.client() as client, ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: client.post("/v1/ratings", json=body).status_code, range(24)))
    assert sorted(statuses) == [200] * 23 + [201]
    assert len(served.ratings()) == 1


def test_the_command_serves_until_it_is_told_to_end(study_folder, tmp_path):
    """As an operator runs it: the address is printed, ratings outlive its end, and a second one at the port is told."""
    database = f"sqlite:///{tmp_path / 'ratings.sqlite'}"
    command = [sys.executable, "-c", "from v2meow.cli_study import app; app()", "serve", str(study_folder)]
    command += ["--port", "0", "--database", database]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert str(study_folder / INVITATIONS) in line
        url, token = line.split()[-1].removesuffix("?rater=TOKEN"), (invitations(study_folder) or [])[0]
        study = read_study(study_folder)
        headers = {"Authorization": f"Bearer {token}"}
        pair = plan(study, rater_of(study, token))[0].pair.id
        assert httpx.get(url).status_code == 200
        assert httpx.post(f"{url}v1/ratings", json=ballot(pair), headers=headers).status_code == 201
        with pytest.raises(StudyError, match="cannot listen") as caught:
            serve(study_folder, "127.0.0.1", int(url.rsplit(":")[-1].strip("/")), database)
        assert "\n" not in str(caught.value)
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
    with closing(open_ballots(study, study_folder, database)) as ballots:
        assert [one.pair for one in ballots.all()] == [pair]
