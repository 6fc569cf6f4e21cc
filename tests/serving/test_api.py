"""What a good request gets over HTTP: music as the command line makes it, events, takes, files, and what is kept."""

import base64
import json
import threading

import httpx
import numpy as np
import pytest
from local_server import LocalServer, Loop, ask, events, finished, local_server, problem
from processes import wait_for

from serving import keys
from v2meow.generate.files import Order, generate_file
from v2meow.media import Reader, read_wav


def _pcm(wav: bytes) -> bytes:
    return wav[wav.index(b"data") + 8 :]


@pytest.mark.parametrize("seconds", [None, 0.53, 2.0])
def test_the_streamed_wav_is_what_the_command_line_makes(client, clip, tiny_model, tmp_path, seconds):
    """To the bit, for the same seed and words; the length is told beforehand."""
    fields = {"seed": 3, "prompt": "loud bells"} | ({} if seconds is None else {"seconds": seconds})
    answer = ask(client, clip, **fields)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/wav")
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert len(answer.headers["x-model-digest"]) == 64
    generate_file(clip, tmp_path / "out.mp4", tiny_model, Order(prompt="loud bells", seed=3, seconds=seconds, wav=True))
    assert _pcm(answer.content) == _pcm((tmp_path / "out.wav").read_bytes())
    (tmp_path / "streamed.wav").write_bytes(answer.content)
    assert read_wav(tmp_path / "streamed.wav")[1] == 16_000

    kept = client.get(f"/v1/generations/{answer.headers['x-generation-id']}/takes/1")
    assert _pcm(kept.content) == _pcm(answer.content)


def test_events_come_in_order_and_hold_the_music(client, clip):
    answer = ask(client, clip, seed=3, format="events")
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = events(answer)
    kinds = [line["event"] for line in lines]
    assert kinds[0] == "begun" and kinds[-1] == "done" and set(kinds) == {"begun", "progress", "audio", "done"}
    begun, done = lines[0], lines[-1]
    assert (begun["seconds"], begun["takes"], begun["sample_rate"]) == (pytest.approx(2.6), 1, 16_000)
    assert done["id"] == begun["id"] == answer.headers["x-generation-id"]
    sound = b"".join(base64.b64decode(line["pcm"]) for line in lines if line["event"] == "audio")
    assert sound == _pcm(ask(client, clip, seed=3).content)
    for stage in ("semantic", "coarse", "fine"):
        shares = [line["share"] for line in lines if line["event"] == "progress" and line["stage"] == stage]
        assert shares == sorted(shares) and shares[-1] == 1.0


def test_takes_are_ranked_and_the_first_is_the_answer(client, clip, tiny_model, tmp_path):
    """As the command line ranks them; take and seed go together."""
    answer = ask(client, clip, seed=5, takes=3)
    record = client.get(f"/v1/generations/{answer.headers['x-generation-id']}").json()
    takes = record["takes"]
    assert [take["agreement"] for take in takes] == sorted((take["agreement"] for take in takes), reverse=True)
    assert {(take["number"], take["seed"]) for take in takes} == {(1, 5), (2, 6), (3, 7)}
    for take in takes:
        alone = _pcm(ask(client, clip, seed=take["seed"]).content)
        assert _pcm(client.get(take["files"]["wav"]).content) == alone
    assert _pcm(answer.content) == _pcm(client.get(takes[0]["files"]["wav"]).content)
    generate_file(clip, tmp_path / "out.mp4", tiny_model, Order(seed=5, takes=3, wav=True))
    assert _pcm(answer.content) == _pcm((tmp_path / "out.wav").read_bytes())


def test_events_of_several_takes_are_told_apart(client, clip):
    lines = events(ask(client, clip, seed=5, takes=2, format="events"))
    for number in (1, 2):
        sound = [base64.b64decode(line["pcm"]) for line in lines if line["event"] == "audio" and line["take"] == number]
        assert b"".join(sound) == _pcm(ask(client, clip, seed=4 + number).content)


def test_the_scored_video_has_the_music_and_says_where_it_comes_from(client, clip, reader: Reader, tmp_path):
    answer = ask(client, clip, seed=3, prompt="loud bells", format="mp4")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "video/mp4")
    (tmp_path / "out.mp4").write_bytes(answer.content)
    probe = reader.probe(tmp_path / "out.mp4")
    assert probe.audio is not None and probe.seconds == pytest.approx(2.6, abs=0.02)
    heard = reader.waveform(tmp_path / "out.mp4", 16_000)
    made = np.frombuffer(_pcm(ask(client, clip, seed=3, prompt="loud bells").content), "<i2") / 32768
    assert np.corrcoef(heard[1000:40_000], made[1000:40_000])[0, 1] > 0.8
    about = client.get(f"/v1/generations/{answer.headers['x-generation-id']}/takes/1?format=json").json()
    assert (
        about["seed"] == 3 and about["prompt"] == "loud bells" and about["bundle"] == answer.headers["x-model-digest"]
    )
    assert b'"seed":3' in answer.content and b"loud bells" not in answer.content  # files travel, words are private


def test_many_who_ask_for_the_same_scored_video_all_get_it(client, server, clip, reader, tmp_path):
    """It is made when it is first asked for: two at once must not write the same file."""
    name = ask(client, clip).headers["x-generation-id"]
    answers: list[httpx.Response] = []

    def fetch() -> None:
        with server.client() as own:
            answers.append(own.get(f"/v1/generations/{name}/takes/1?format=mp4"))

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 4
    for answer in answers:
        (tmp_path / "out.mp4").write_bytes(answer.content)
        assert reader.probe(tmp_path / "out.mp4").audio is not None


def test_a_client_who_has_all_samples_finds_its_music_kept(client, server: LocalServer, clip):
    """Content-Length tells the last byte: who leaves then must not cancel the writing."""
    for _ in range(5):
        with server.client(headers={"Connection": "close"}) as own:
            name = ask(own, clip, seconds=0.3).headers["x-generation-id"]
        assert client.get(f"/v1/generations/{name}").json()["status"] == "succeeded"


def test_a_generation_in_the_background_goes_its_way(client, server, long_clip):
    answer = ask(client, long_clip, mode="async", seed=3, seconds=12)
    body = answer.json()
    assert answer.status_code == 202 and body["status"] in ("queued", "running")
    place = answer.headers["location"]
    assert place == f"/v1/generations/{body['id']}"
    problem(client.get(f"{place}/takes/1"), 409, "not-done")
    seen = []
    wait_for(lambda: seen.append(client.get(place).json()) or seen[-1]["status"] == "succeeded", 30.0)
    shares = [record["progress"].get("semantic", 0.0) for record in seen]
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert {"owner", "attempts", "mode"}.isdisjoint(seen[-1]) and seen[-1]["seconds"] == 12.0
    files = seen[-1]["takes"][0]["files"]
    assert _pcm(client.get(files["wav"]).content) == _pcm(ask(client, long_clip, seed=3, seconds=12).content)
    assert client.get(files["json"]).json()["seed"] == 3
    for wrong in ("0", "2", "-1", "9" * 300, "9" * 5000):
        assert client.get(f"{place}/takes/{wrong}").status_code in (404, 422)
    assert client.delete(place).status_code == 204
    problem(client.get(place), 404, "no-such-generation")
    problem(client.delete(place), 404, "no-such-generation")
    problem(client.get(files["wav"]), 404, "no-such-generation")


def test_deleting_ends_the_work_at_once(client, server: LocalServer, long_clip):
    answer = ask(client, long_clip, mode="async", takes=4)
    wait_for(lambda: server.service.gate.inside == 4, 10.0)
    assert client.delete(answer.headers["location"]).status_code == 204
    wait_for(server.free, 1.0)
    assert not server.service.spool.place(answer.json()["id"]).exists()


def test_deleting_ends_a_stream_too(client, server: LocalServer, long_clip):
    """Else it would work on, and write its files where the generation was."""
    with client.stream(
        "POST", "/v1/generations", files={"video": long_clip.read_bytes()}, data={"format": "events", "takes": "4"}
    ) as answer:
        name = answer.headers["x-generation-id"]
        lines = answer.iter_lines()
        assert json.loads(next(lines))["event"] == "begun"
        with server.client() as other:
            assert other.delete(f"/v1/generations/{name}").status_code == 204
        last = json.loads(list(lines)[-1])
    assert last["event"] == "error" and last["type"].endswith(":cancelled")
    wait_for(server.free, 1.0)
    assert not server.service.spool.place(name).exists()


def test_what_is_kept_expires(loop: Loop, settings, clip):
    with local_server(loop, settings(keep_s=1.5)) as server, server.client() as client:
        name = ask(client, clip, mode="async", seconds=0.2).json()["id"]
        assert finished(client, name)["status"] == "succeeded"
        wait_for(lambda: client.get(f"/v1/generations/{name}").status_code == 404, 5.0)
        server.service.spool.tidy()
        assert not server.service.spool.place(name).exists()


def test_the_same_key_never_makes_music_twice(client, server: LocalServer, clip):
    """A client that repeats a request after a broken connection."""
    first = ask(client, clip, seed=9, seconds=0.5, headers={"Idempotency-Key": "k1"})
    made = server.counts.happened["finished"]
    again = ask(client, clip, seed=9, seconds=0.5, headers={"Idempotency-Key": "k1"})
    assert again.headers["x-generation-id"] == first.headers["x-generation-id"]
    assert _pcm(again.content) == _pcm(first.content)
    assert ask(client, clip, seed=9, seconds=0.5, format="mp4", headers={"Idempotency-Key": "k1"}).status_code == 200
    other = ask(client, clip, seed=10, seconds=0.5, headers={"Idempotency-Key": "k1"})
    problem(other, 422, "key-reused")
    longer = ask(client, clip, headers={"Idempotency-Key": "k" * 201})
    problem(longer, 400, "broken-header")
    events_again = ask(client, clip, seed=9, seconds=0.5, format="events", headers={"Idempotency-Key": "k1"})
    problem(events_again, 409, "already-done")
    assert server.counts.happened["finished"] == made
    kept = {record.id for record in server.service.spool.records() if record.status == "queued"}
    assert not kept  # what was refused is not left to be begun by a sweep


def test_of_the_same_request_many_times_at_once_one_is_made(client, server: LocalServer, clip):
    made = server.counts.happened["finished"]
    answers: list[httpx.Response] = []

    def send() -> None:
        with server.client() as own:
            answers.append(ask(own, clip, mode="async", seed=11, headers={"Idempotency-Key": "k2"}))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} <= {200, 202}
    (name,) = {answer.json()["id"] for answer in answers}
    assert finished(client, name)["status"] == "succeeded"
    assert server.counts.happened["finished"] == made + 1
    assert ask(client, clip, mode="async", seed=11, headers={"Idempotency-Key": "k2"}).status_code == 200


def test_a_stream_with_the_key_of_one_under_way_is_told_to_come_back(client, server, long_clip):
    with server.client() as other:
        first = ask(other, long_clip, mode="async", headers={"Idempotency-Key": "k3"})
        problem(ask(client, long_clip, headers={"Idempotency-Key": "k3"}), 409, "still-running")
        assert client.delete(first.headers["location"]).status_code == 204
    again = ask(client, long_clip, seconds=0.2, headers={"Idempotency-Key": "k3"})
    assert again.status_code == 200  # a key whose generation was cancelled is free


def test_the_document_of_the_interface_is_valid(client):
    """Tools that make clients from it stop at the first reference that leads nowhere."""
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) == {
        "/v1/generations",
        "/v1/generations/{name}",
        "/v1/generations/{name}/takes/{take}",
        "/v1/models",
    }
    references = json.dumps(document).split('"$ref": "#/')[1:]
    for place in (reference.partition('"')[0] for reference in references):
        found = document
        for step in place.split("/"):
            found = found[step]
    form = document["paths"]["/v1/generations"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["additionalProperties"] is False and "video" in form["properties"]


def test_probes_and_figures_need_no_key(loop: Loop, settings, tmp_path):
    file = tmp_path / "keys.json"
    keys.create(file, "alice", per_minute=60, concurrent=1, days=None)
    with local_server(loop, settings(keys=str(file))) as server, server.client() as client:
        assert client.get("/healthz").text == "ok" and client.get("/readyz").text == "ready"
        assert client.get("/metrics").status_code == 200
        problem(client.get("/v1/models"), 401, "key-missing")
