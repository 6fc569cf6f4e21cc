"""Promotion: what the real service proves good goes to production, what it does not is taken back without a person."""

import shutil
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_bundle
import torch
import yaml
from prefect.client.schemas.objects import State
from processes import wait_for
from safetensors.torch import load_file, save_file

sys.path.append(str(Path(__file__).parents[1] / "serving"))  # where the service without Ray is

from local_server import LocalServer, Loop  # pyright: ignore[reportMissingImports]

from flows import promote as promotion
from flows.promote import promote, rollback
from serving.editions import Edition
from serving.local import LocalParts
from serving.performance import Seen
from serving.problems import Problem
from serving.settings import Settings
from v2meow import bundle
from v2meow.files import write_json
from v2meow.registry import REGISTRY_VARIABLE, Registry, RegistryError

MODEL = "v2meow"
LIMITS: dict[str, Any] = {
    "seconds": 1.0,
    "probes": 1,
    "watches": 2,
    "watch_minutes": 0.01,
    "max_slowdown": 1000.0,
    "max_clipped_share": 1.0,
    "approval_hours": 0.02,
}


class Fragile(LocalParts):
    """Parts that fail, or dawdle, for the version `broken`, once it has begun to be."""

    broken, dawdles_s = "", 0.0

    async def see(self, edition: Edition, video: Path, seconds: float | None) -> AsyncGenerator[Seen]:
        if edition.label == self.broken:
            if not self.dawdles_s:
                raise Problem(500, "internal", "a tensor of the wrong shape")
            time.sleep(self.dawdles_s)
        async for seen in super().see(edition, video, seconds):
            yield seen


def register(registry: Registry, place: Path, folder: Path, approvals: tuple[str, ...] = ()) -> str:
    """Register a bundle that passed its gate and put it into staging; its version."""
    verdict = place / "verdict.json"
    write_json(verdict, {"passed": True, "bundle": bundle.verify(folder), "recipe": "nano", "criteria": [{}]})
    version = registry.register(
        MODEL, folder, verdict, data_version="d", git_revision="g", actor="ada", approvals=approvals
    )
    registry.promote(MODEL, version.name, "staging", actor="ada")
    return version.name


class Shop:
    """A workspace's registry with version v1 in production, and a service of both stages."""

    def __init__(self, place: Path, loop: Loop, parts: Fragile, first: Path) -> None:
        self.place, self.parts, self.registry = place, parts, Registry(place / "registry")
        self.release(first)
        self.attest("v1", "smoke")
        self.registry.promote(MODEL, "v1", "production", actor="ada")
        models = [{"name": f"{MODEL}@production", "share": 0.9}, {"name": f"{MODEL}@staging", "share": 0.1}]
        settings = {"models": models, "workspace": str(place), "refresh_s": 0.2, "open": True}
        self.server = LocalServer(loop, Settings.model_validate(settings | {"spool": str(place / "spool")}), parts)

    def release(self, folder: Path, approvals: tuple[str, ...] = ()) -> str:
        """Register a bundle and put it into staging; its version."""
        return register(self.registry, self.place, folder, approvals)

    def attest(self, version: str, kind: str) -> None:
        digest = self.registry.find(f"{MODEL}@{version}").bundle
        write_json(self.place / "report.json", {"passed": True, "bundle": digest, "numbers": {}})
        self.registry.attest(MODEL, version, kind, self.place / "report.json", actor="ada")

    def promote(self) -> State[Any]:
        return promote(str(self.place), endpoint=self.server.url, return_state=True)

    @property
    def stages(self) -> dict[str, str]:
        return self.registry.state(MODEL).stages

    def reports(self, version: str) -> dict[str, bool]:
        """Whether the newest report of each kind on a version passed."""
        state = self.registry.state(MODEL)
        found = state.reports(state.versions[version])
        return {kind: event.report.passed for kind, event in found.items() if event.report}


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    loop = Loop(pieces=4)
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two bundles of the same shape."""
    return [tiny_bundle.assembled(tmp_path_factory.mktemp("model"), seed=seed) for seed in (0, 1)]


@pytest.fixture
def shop(server: str, loop: Loop, models: list[Path], tmp_path: Path, monkeypatch) -> Iterator[Callable[..., Shop]]:
    """Opens a shop whose recipe has these limits."""
    opened: list[Shop] = []

    def open_shop(**limits: Any) -> Shop:
        monkeypatch.setenv(REGISTRY_VARIABLE, str(tmp_path / "registry"))
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tiny.values({"promotion": LIMITS | limits})))
        opened.append(Shop(tmp_path, loop, Fragile(4, room=4), models[0]))
        return opened[-1]

    yield open_shop
    for one in opened:
        one.server.stop()


@pytest.mark.slow
def test_a_good_version_goes_to_production_and_can_be_rolled_back(shop, models):
    """With the evidence in the registry; and asked for again there is nothing to do."""
    here = shop()
    here.release(models[1])
    ended = here.promote()
    assert ended.is_completed(), ended.message
    assert here.stages == {"staging": "v2", "production": "v2"}
    assert here.reports("v2") == {"smoke": True, "canary": True, "production": True}
    assert here.promote().name == "Nothing new"
    assert rollback(str(here.place), return_state=True).is_completed() and here.stages["production"] == "v1"


@pytest.mark.slow
def test_a_promotion_that_was_killed_before_its_last_look_is_gone_on_with(shop, models):
    """The version has production already: nobody would ever have asked it there whether it answers."""
    here = shop()
    here.release(models[1])
    here.attest("v2", "smoke")
    here.registry.promote(MODEL, "v2", "production", actor="promote")
    assert here.promote().name != "Nothing new" and here.reports("v2") == {"smoke": True, "production": True}
    assert here.promote().name == "Nothing new"


@pytest.mark.slow
@pytest.mark.parametrize(("dawdles_s", "reason"), [(0.0, "requests failed"), (3.0, "as long as production")])
def test_a_canary_that_begins_to_fail_or_dawdle_is_taken_back(shop, models, dawdles_s, reason):
    """Within one watch, by nobody; the run and the registry say why."""
    here = shop(watches=200, max_slowdown=3.0)
    here.release(models[1])
    here.parts.dawdles_s = dawdles_s

    def breaks() -> None:
        wait_for(lambda: "smoke" in here.reports("v2"), 60)
        here.parts.broken = f"{MODEL}@v2"

    fault = threading.Thread(target=breaks)
    fault.start()
    ended = here.promote()
    fault.join()
    assert ended.is_failed() and "canary" in str(ended.message) and reason in str(ended.message)
    assert here.stages == {"staging": "v1", "production": "v1"}
    assert here.reports("v2") == {"smoke": True, "canary": False}
    with pytest.raises(RegistryError, match="canary"):
        here.registry.promote(MODEL, "v2", "production", actor="eve")


@pytest.mark.slow
def test_a_silent_version_does_not_pass_its_smoke_requests(shop, models, tmp_path):
    """It answers every request, in time, with music of the right length, and nobody hears it."""
    here = shop()
    silent = shutil.copytree(models[1], tmp_path / "silent")
    file = silent / "encoders/codec/model.safetensors"
    save_file({name: torch.zeros_like(tensor) for name, tensor in load_file(file).items()}, file)
    parts = {one.name: one for one in silent.iterdir() if one.name in ("semantic", "coarse", "fine", "recipe.yaml")}
    parts |= {f"encoders/{one.name}": one for one in (silent / "encoders").iterdir()}
    bundle.assemble(parts, tmp_path / "assembled")
    here.release(tmp_path / "assembled")
    ended = here.promote()
    assert ended.is_failed() and "silence" in str(ended.message)
    assert here.stages == {"staging": "v1", "production": "v1"} and here.reports("v2") == {"smoke": False}


@pytest.mark.slow
def test_the_first_version_ever_leaves_staging_empty_when_it_fails(server, models, tmp_path, monkeypatch):
    """There is none to give staging back to; what was refused must not hold it, nor be tried again at every event."""
    monkeypatch.setenv(REGISTRY_VARIABLE, str(tmp_path / "registry"))
    monkeypatch.setattr(promotion, "_SEEN_S", 1.0)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tiny.values({"promotion": LIMITS})))
    registry = Registry(tmp_path / "registry")
    register(registry, tmp_path, models[0])
    ended = promote(str(tmp_path), endpoint="http://127.0.0.1:1", return_state=True)
    assert ended.is_failed() and "nothing is in staging, as before" in str(ended.message)
    last = registry.state(MODEL).history[-1]
    assert (last.kind, last.version.name, last.actor) == (
        "withdraw",
        "v1",
        "promote",
    ) and "serves nothing" in last.evidence
    assert registry.state(MODEL).stages == {}
    assert promote(str(tmp_path), endpoint="http://127.0.0.1:1", return_state=True).name == "Nothing new"


@pytest.mark.slow
def test_a_version_that_needs_a_persons_approval_waits_for_it(shop, models):
    """Approval in the registry resumes the run; before it, nothing is in production."""
    here = shop()
    here.release(models[1], approvals=("production",))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(here.promote)
        wait_for(lambda: "canary" in here.reports("v2"), 60)
        time.sleep(3.0)
        assert not running.done() and here.stages["production"] == "v1"
        here.registry.approve(MODEL, "v2", "production", actor="ada", text="listened to it")
        ended = running.result(60)
    assert ended.is_completed(), ended.message
    assert here.stages["production"] == "v2"
