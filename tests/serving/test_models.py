"""Which model answers: shares, names, swaps under load, versions that fail their trial, stages that are followed."""

import io
import shutil
import threading
import wave
from pathlib import Path

import pytest
import tiny_bundle
import torch
from local_server import LocalServer, Loop, ask, local_server, problem
from processes import wait_for
from safetensors.torch import load_file, save_file

from serving.choice import resolve
from serving.settings import ModelShare
from v2meow import bundle
from v2meow.files import write_json
from v2meow.registry import Registry


def _digest(model: Path) -> str:
    return bundle.verify(model)


def _maker(client, clip, **fields) -> str:
    answer = ask(client, clip, seconds=0.2, **fields)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-model-digest"]


def _models(*shares: tuple[Path | str, float]) -> tuple[ModelShare, ...]:
    return tuple(ModelShare(name=str(name), share=share) for name, share in shares)


@pytest.fixture
def server(loop: Loop, settings, tiny_model, other_model):
    models = [model.model_dump() for model in _models((tiny_model, 1.0), (other_model, 0.0))]
    with local_server(loop, settings(models=models)) as server:
        yield server


def test_shares_divide_requests_and_names_and_hashes_choose(server: LocalServer, clip, tiny_model, other_model):
    with server.client() as client:
        assert {_maker(client, clip) for _ in range(12)} == {_digest(tiny_model)}  # the other has no share
        for asked in (str(other_model), _digest(other_model), _digest(other_model)[:8]):
            assert _maker(client, clip, model=asked) == _digest(other_model)
        for wrong in ("unknown", _digest(other_model)[:7], str(other_model.parent)):
            problem(ask(client, clip, model=wrong), 404, "no-such-model")
        listed = client.get("/v1/models").json()
    assert [(one["digest"], one["share"]) for one in listed["models"]] == [
        (_digest(tiny_model), 1.0),
        (_digest(other_model), 0.0),
    ]
    assert listed["trouble"] == {}


def test_the_models_are_swapped_under_load_without_a_failed_request(
    loop: Loop, server: LocalServer, clip, tiny_model, other_model
):
    ended, answers = threading.Event(), []

    def listen() -> None:
        with server.client() as client:
            while not ended.is_set():
                answer = ask(client, clip, seconds=0.5)
                answers.append((answer.status_code, answer.headers.get("x-model-digest"), _frames(answer.content)))

    threads = [threading.Thread(target=listen) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(4):
        first, second = (other_model, tiny_model) if turn % 2 == 0 else (tiny_model, other_model)
        loop.run(server.service.adopt(_models((first, 1.0), (second, 0.0))))
        before = len(answers)
        wait_for(lambda before=before: len(answers) > before + 4, 20.0)
    ended.set()
    for thread in threads:
        thread.join()
    assert {status for status, _, _ in answers} == {200}
    assert {made for _, made, _ in answers} == {_digest(tiny_model), _digest(other_model)}
    assert len({length for _, _, length in answers}) == 1


def _frames(content: bytes) -> int:
    """How much sound a WAV file has: how long its comment is depends on where the model lies."""
    with wave.open(io.BytesIO(content)) as file:
        return file.getnframes()


def _spoilt(source: Path, folder: Path, part: str) -> Path:
    """A bundle whose hash is right and whose weights of a part are no numbers."""
    copy = shutil.copytree(source, folder / "copy")
    file = copy / part / "model.safetensors"
    weights = {name: torch.full_like(tensor, torch.nan) for name, tensor in load_file(file).items()}
    save_file(weights, file)
    (copy / bundle.MANIFEST).unlink()
    bundle.assemble({path.name: path for path in copy.iterdir()}, folder / part)
    return folder / part


@pytest.mark.parametrize(
    "part", ["semantic", "coarse", "fine", "encoders/codec", "encoders/joint", "damaged", "missing"]
)
def test_a_model_that_fails_its_trial_changes_nothing_and_is_told_of(
    loop: Loop, server: LocalServer, clip, tiny_model, tmp_path, part
):
    """NaN in a stage gives ids like any others, so that a trial by ear alone would let it pass."""
    bad = tmp_path / "nowhere"
    if part == "damaged":
        bad = shutil.copytree(tiny_model, tmp_path / "damaged")
        with (bad / "fine/model.safetensors").open("ab") as file:
            file.write(b"x")
    elif part != "missing":
        bad = _spoilt(tiny_model, tmp_path, part)
    loop.run(server.service.adopt(_models((bad, 1.0))))
    with server.client() as client:
        assert _maker(client, clip) == _digest(tiny_model)
        listed = client.get("/v1/models").json()
        assert list(listed["trouble"]) == [str(bad)] and listed["trouble"][str(bad)]
        loop.run(server.service.adopt(_models((tiny_model, 1.0))))
        assert client.get("/v1/models").json()["trouble"] == {}  # nobody asks for that one any more


def test_a_service_without_any_model_does_not_start(loop: Loop, settings, tmp_path):
    with pytest.raises(bundle.BundleError):
        LocalServer(loop, settings(models=[{"name": str(tmp_path)}]))


class Shop:
    """A workspace's registry, with a gate that everything passes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.registry = folder, Registry(folder / "registry")

    def release(self, model: Path, stage: str = "staging") -> str:
        """Register a bundle and give it the stage; its version."""
        verdict = {"passed": True, "bundle": _digest(model), "recipe": "nano", "criteria": []}
        write_json(self.folder / "verdict.json", verdict | {"criteria": [{"metric": "loss", "value": 0.1}]})
        version = self.registry.register(
            "v2meow", model, self.folder / "verdict.json", data_version="d1", git_revision="g1", actor="ada"
        )
        self.registry.promote("v2meow", version.name, stage, actor="ada")
        return version.name


def test_a_stage_of_the_registry_is_followed(loop: Loop, settings, clip, tiny_model, other_model, tmp_path):
    """Promotion and rollback reach listeners within `refresh_s`; a version that fails its trial never does."""
    shop, name = Shop(tmp_path), "v2meow@staging"
    shop.release(tiny_model)
    chosen = settings(models=[{"name": name}], workspace=str(tmp_path), refresh_s=0.1)
    with local_server(loop, chosen) as server, server.client() as client:
        assert _maker(client, clip) == _digest(tiny_model)
        shop.release(other_model)
        wait_for(lambda: _maker(client, clip) == _digest(other_model), 5.0)
        assert _maker(client, clip, model="v2meow@v2") == _digest(other_model)
        assert resolve(name, tmp_path).data == "d1"

        bad = _spoilt(tiny_model, tmp_path, "fine")
        shop.release(bad)
        wait_for(lambda: name in client.get("/v1/models").json()["trouble"], 5.0)
        assert _maker(client, clip) == _digest(other_model)
        shop.registry.rollback("v2meow", "staging", actor="ada")
        wait_for(lambda: client.get("/v1/models").json()["trouble"] == {}, 5.0)

        (tmp_path / "registry").rename(tmp_path / "away")  # for a moment
        for _ in range(3):
            assert _maker(client, clip) == _digest(other_model)
        (tmp_path / "away").rename(tmp_path / "registry")
        shop.registry.rollback("v2meow", "staging", actor="ada")
        wait_for(lambda: _maker(client, clip) == _digest(tiny_model), 5.0)


def test_a_stage_that_is_emptied_has_no_share_any_more(loop: Loop, settings, clip, tiny_model, other_model, tmp_path):
    """The first version that a stage ever had goes when it fails: nobody is before it, but others are served."""
    shop, staging = Shop(tmp_path), "v2meow@staging"
    shop.release(other_model)
    models = [{"name": str(tiny_model), "share": 0.1}, {"name": staging, "share": 0.9}]
    chosen = settings(models=models, workspace=str(tmp_path), refresh_s=0.1)
    with local_server(loop, chosen) as server, server.client() as client:
        assert _maker(client, clip, model=staging) == _digest(other_model)
        shop.registry.withdraw("v2meow", "staging", actor="ada", reason="it is slow")
        wait_for(lambda: staging in client.get("/v1/models").json()["trouble"], 5.0)
        problem(ask(client, clip, model=staging), 404, "no-such-model")
        assert {_maker(client, clip) for _ in range(8)} == {_digest(tiny_model)}

        loop.run(server.service.adopt(_models((staging, 1.0))))
        assert _maker(client, clip) == _digest(tiny_model), "with nothing to serve it goes on as it was"


def test_a_model_that_was_away_at_the_start_is_served_when_it_comes(loop: Loop, settings, clip, tiny_model, tmp_path):
    """Otherwise it is served only after a restart."""
    late = tmp_path / "late"
    models = [{"name": str(tiny_model)}, {"name": str(late), "share": 0.0}]
    with local_server(loop, settings(models=models, refresh_s=0.05)) as server, server.client() as client:
        problem(ask(client, clip, model=str(late)), 404, "no-such-model")
        bundle.copy(tiny_bundle.assembled(tmp_path / "made", seed=2), late, _digest(tmp_path / "made/bundle"))
        wait_for(lambda: ask(client, clip, model=str(late)).status_code == 200, 10.0)
        assert client.get("/v1/models").json()["trouble"] == {}
