"""The service under Ray Serve as people run it: `v2meow serve`, asked over HTTP, while parts of it die.

One service for the whole module; the tests that rob it come after those that only ask.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier

import httpx
import numpy as np
import pytest
import yaml
from processes import alive, wait_for
from service_process import ServiceProcess
from typer.testing import CliRunner

from v2meow import bundle, release
from v2meow.cli import app
from v2meow.media import read_wav, write_video
from v2meow.registry import Registry

pytestmark = pytest.mark.slow

SECONDS, FPS, STREAMS = 6.0, 10, 4
RECOVERY_S = 30.0


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("video") / "clip.mp4"
    pictures = (np.full((64, 64, 3), 8 * number % 255, np.uint8) for number in range(round(SECONDS * FPS)))
    write_video(file, pictures, FPS, np.zeros(round(SECONDS * 16_000), np.float32), 16_000)
    return file


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> Registry:
    """The shipped model as v1, which is in production, and as v2 with another temperature."""
    place = tmp_path_factory.mktemp("workspace")
    models, nano = Registry(place / "registry"), release.SHIPPED / "nano"
    recipe = yaml.safe_load((nano / "recipe.yaml").read_text())
    recipe["generate"]["semantic"]["temperature"] = 0.5
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    parts = {part.name: part for part in nano.iterdir() if part.name != bundle.MANIFEST}
    for number, changed in enumerate([{}, {"recipe.yaml": place / "recipe.yaml"}]):
        folder, verdict = place / f"bundle-{number}", place / f"verdict-{number}.json"
        digest = bundle.assemble(parts | changed, folder)
        criteria = [{"metric": "loss", "value": 0.1}]
        verdict.write_text(json.dumps({"passed": True, "bundle": digest, "recipe": "nano", "criteria": criteria}))
        version = models.register("v2meow", folder, verdict, data_version="d", git_revision="g", actor="ada")
        models.attest("v2meow", version.name, "smoke", verdict, actor="ada")
    for stage in ("staging", "production"):
        models.promote("v2meow", "v1", stage, actor="ada")
    return models


@pytest.fixture(scope="module")
def service(registry, tmp_path_factory) -> Iterator[ServiceProcess]:
    folder = tmp_path_factory.mktemp("service")
    settings = {
        "models": [{"name": "v2meow@production"}],
        "workspace": str(registry.root.parent),
        "refresh_s": 0.5,
        "spool": str(folder / "spool"),
        "open": True,
    }
    running = ServiceProcess(folder, settings)
    yield running
    running.kill()


@pytest.fixture(scope="module")
def ask(service, video) -> Callable[..., httpx.Response]:
    """One generation, to its end."""

    def post(seed: int, **fields: object) -> httpx.Response:
        content = {"video": video.read_bytes()}
        data = {"seed": str(seed)} | {name: str(value) for name, value in fields.items()}
        return httpx.post(f"{service.url}/v1/generations", files=content, data=data, timeout=60.0)

    return post


@pytest.fixture(scope="module")
def music(ask) -> list[bytes]:
    """What seeds 0 … STREAMS - 1 give when nothing happens."""
    answers = [ask(seed) for seed in range(STREAMS)]
    assert [answer.status_code for answer in answers] == [200] * STREAMS
    assert len({answer.content for answer in answers}) == STREAMS
    return [answer.content for answer in answers]


class Streams:
    """STREAMS generations at once; `begun` waits until all of them play."""

    def __init__(self, service: ServiceProcess, video: Path) -> None:
        self._service, self._video = service, video
        self._all = Barrier(STREAMS + 1)
        self._pool = ThreadPoolExecutor(STREAMS)
        self.answers: list[Future[bytes]] = [self._pool.submit(self._listen, seed) for seed in range(STREAMS)]

    def _listen(self, seed: int) -> bytes:
        files, data = {"video": self._video.read_bytes()}, {"seed": str(seed)}
        url = f"{self._service.url}/v1/generations"
        with httpx.stream("POST", url, files=files, data=data, timeout=60.0) as answer:
            assert answer.status_code == 200
            self._all.wait(30.0)
            return answer.read()

    def begun(self) -> None:
        self._all.wait(30.0)


def killed(service: ServiceProcess, pids: list[int]) -> None:
    assert pids, service.log.read_text()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def test_the_service_makes_the_music_that_the_command_makes(ask, music, registry, video, tmp_path):
    """Windows that pass from process to process must not change a bit; with a prompt, too."""
    sound = tmp_path / "service.wav"
    sound.write_bytes(ask(0, prompt="slow bells").content)
    command = ["generate", str(video), "-o", str(tmp_path / "cli.mp4"), "--wav", "--prompt", "slow bells"]
    done = CliRunner().invoke(app, [*command, "--model", str(registry.resolve("v2meow@v1"))])
    assert done.exit_code == 0, done.output
    ours, rate = read_wav(sound)
    expected, _ = read_wav(tmp_path / "cli.wav")
    assert len(ours) == SECONDS * rate and np.array_equal(ours, expected)
    assert music[0] != sound.read_bytes()


def test_listeners_who_leave_keep_no_place(service, ask, video, music):
    """A window that nobody waits for would hold its rows for as long as it takes, or for ever."""
    for seed in range(12):
        files, data = {"video": video.read_bytes()}, {"seed": str(seed)}
        with httpx.stream("POST", f"{service.url}/v1/generations", files=files, data=data, timeout=60.0) as answer:
            next(answer.iter_bytes())

    def free() -> bool:
        figures = service.metrics()
        busy = [value for name, value in figures.items() if "_rows_used" in name or "_pieces" in name]
        return len(busy) >= 5 and not any(busy)

    wait_for(free, 20.0)
    assert ask(0).content == music[0]


def test_figures_of_all_parts_are_told(service, music):
    wanted = ("first_audio_seconds_count", "generation_seconds_count", "music_seconds_total", "real_time_factor_bucket")

    def told(name: str) -> bool:
        return any(key.startswith(f"ray_v2meow_{name}") and value >= 1 for key, value in service.metrics().items())

    for name in wanted:
        wait_for(lambda name=name: told(name), 20.0)  # processes tell their node every few seconds
    figures = service.metrics()
    for stage in ("semantic", "coarse", "fine"):
        made = [value for name, value in figures.items() if "_codes_total" in name and f'stage="{stage}"' in name]
        assert sum(made) > 0, stage


@pytest.mark.parametrize("deployment", ["SemanticStage", "CoarseStage", "FineStage"])
def test_music_goes_on_when_the_process_of_a_stage_dies(service, video, music, deployment):
    """Streams that are cut, or that go on with other music, would both be heard."""
    streams = Streams(service, video)
    victims = service.replicas(deployment)
    streams.begun()
    killed(service, victims)
    began = time.monotonic()
    assert [answer.result(RECOVERY_S) for answer in streams.answers] == music
    assert time.monotonic() - began < RECOVERY_S
    wait_for(lambda: set(service.replicas(deployment)) - set(victims) != set(), RECOVERY_S)


def test_a_promotion_while_people_listen(service, ask, music, registry):
    """Not one request fails; before it all comes from v1, soon after it all from v2, and nothing is mixed."""
    digests = [registry.state("v2meow").versions[version].bundle for version in ("v1", "v2")]
    with ThreadPoolExecutor(2) as pool:
        registry.promote("v2meow", "v2", "staging", actor="ada")
        registry.promote("v2meow", "v2", "production", actor="ada")
        answers: list[httpx.Response] = []
        deadline = time.monotonic() + RECOVERY_S
        while time.monotonic() < deadline and (not answers or answers[-1].headers["x-model-digest"] == digests[0]):
            answers += pool.map(ask, [0, 0])
            assert [answer.status_code for answer in answers[-2:]] == [200, 200]
    found = [answer.headers["x-model-digest"] for answer in answers]
    assert set(found) == set(digests) and found == sorted(found, key=digests.index)
    by_model = {digest: {a.content for a in answers if a.headers["x-model-digest"] == digest} for digest in digests}
    assert by_model[digests[0]] == {music[0]} and by_model[digests[1]].isdisjoint(music)
    assert len(by_model[digests[1]]) == 1
    registry.rollback("v2meow", "production", actor="ada")
    wait_for(lambda: ask(0).content == music[0], RECOVERY_S)


def test_what_a_dead_ingress_was_playing_ends_with_an_error(service, ask, video, music):
    """No listener may take half of the music for all of it, and soon the next ones are served."""
    streams = Streams(service, video)
    victims = service.replicas("Ingress")
    streams.begun()
    killed(service, victims)
    for answer, whole in zip(streams.answers, music, strict=True):
        with suppress(httpx.HTTPError):
            assert answer.result(RECOVERY_S) == whole
    wait_for(service.ready, RECOVERY_S)
    assert ask(0).content == music[0]


def test_the_door_opens_again_when_its_process_dies(service, ask, music):
    """Serve asks its proxy three times before it believes that it is dead: every 10 s unless it is told otherwise."""
    killed(service, service.actors("ProxyActor"))
    wait_for(service.ready, RECOVERY_S)
    assert ask(0).content == music[0]


def test_sigterm_ends_all_of_it(service):
    """Processes that stay would hold the port, and a GPU's memory."""
    family = service.family()
    assert service.end() == 0
    wait_for(lambda: not any(map(alive, family)), 10.0)
