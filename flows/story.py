"""The life of a model in production, played on this machine for whoever watches Prefect's page.

Yesterday's model is in production. New videos land in the source: a better one takes its place by itself. A worse one
is stopped at its gate. One that passed its gate and is many times slower is taken back while it has its share of the
traffic.
Everything is real, and small: tiny models, a synthetic catalogue.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from flows.up import Up, die_with, environment
from v2meow import release, workspace
from v2meow.config import recipe_path
from v2meow.data import pull, synthetic
from v2meow.data.source import open_source
from v2meow.files import atomic_file, write_json
from v2meow.registry import Registry, Report
from v2meow.release import MODEL_NAME

_FIRST, _MORE = 12, 16  # videos
_PATIENCE_S = 1200.0
_STAGE = {
    "layers": 2,
    "width": 32,
    "heads": 2,
    "feed_forward": 64,
    "dropout": 0.0,
    "window_seconds": 2.0,
    "steps": 20,
    "batch": 4,
    "warmup_steps": 2,
}
_LARGE = {"layers": 10, "width": 512, "heads": 8, "feed_forward": 2048, "steps": 2}
_SLOWDOWN = 3.0  # more than the noise of a busy machine
_SMALL: dict[str, Any] = {
    "data": {"clip_seconds": 2.0, "hop_seconds": 1.0, "holdout": 0.4},
    "checks": {"min_clips": 2},
    "semantic_ids": {"clusters": 16, "sample_frames": 1000},
    "codec": {"hop": 320, "levels": 4, "bins": 16, "sample_frames": 1000, "beam": 2, "steps": 2, "batch": 2},
    "joint": {"width": 8, "text_buckets": 64, "steps": 3, "batch": 4},
    "evaluate": {"permutations": 100},
    "generate": {"context_seconds": 1.0},
}


class StoryError(RuntimeError):
    """A chapter that went another way."""


def _say(text: str) -> None:
    print(text, flush=True)


def tell(out: Path, port: int = 4200, say: Callable[[str], None] = _say) -> None:
    """Play the story in the new folder `out`. StoryError where it goes wrong."""
    if out.exists():
        raise StoryError(f"{out} is there already: choose a new folder")
    out = out.absolute()
    place, source, service_port = out / "workspace", out / "source", port + 1
    say("— Yesterday: a first model is made, and put into production by hand.")
    registry = _yesterday(place, source, service_port)
    os.environ.update(environment(place, port))  # before anything imports Prefect
    up, ended = Up(place, port), threading.Event()
    say(f"— Today. Prefect's page: http://127.0.0.1:{port}; the service's: http://127.0.0.1:{service_port}")
    try:
        with _service(out, place, service_port):
            up.start()
            watch = threading.Thread(target=up.keep, args=(ended,), daemon=True)
            watch.start()
            _better(place, source, registry, service_port, say)
            _worse(place, registry, say)
            _slow(place, registry, say)
    finally:
        ended.set()
        up.end()
    say(f"— The end. What happened stands in the registry: v2meow models log {MODEL_NAME} --workspace {place}")


def _yesterday(place: Path, source: Path, service_port: int) -> Registry:
    synthetic.make(source, 0, _FIRST)
    recipe = _recipe(source, f"http://127.0.0.1:{service_port}")
    with atomic_file(place.parent / "recipe.yaml") as file:
        file.write_text(yaml.safe_dump(recipe))
    workspace.init(place, str(place.parent / "recipe.yaml"))
    pull.pull(place, open_source(str(source)))
    _v2meow(place, "run")
    version = release.register(place)
    registry = release.registry(place)
    report = place.parent / "smoke.json"
    write_json(report, {"passed": True, "bundle": version.bundle, "numbers": {}})
    registry.promote(MODEL_NAME, version.name, "staging", actor="story")
    registry.attest(MODEL_NAME, version.name, "smoke", report, actor="story")
    registry.promote(MODEL_NAME, version.name, "production", actor="story")
    return registry


def _better(place: Path, source: Path, registry: Registry, service_port: int, say: Callable[[str], None]) -> None:
    say("1. New videos land in the source; from here on nobody does anything.")
    synthetic.make(source, 0, _MORE)
    _until(lambda: "v2" in registry.state(MODEL_NAME).versions)
    say("   They were found, a model was made of all, it passed its gate and is in staging: v2.")
    _until(lambda: registry.state(MODEL_NAME).stages["production"] == "v2")
    models = httpx.get(f"http://127.0.0.1:{service_port}/v1/models").json()["models"]
    _check(any(model["version"] == f"{MODEL_NAME}@v2" for model in models), "the service does not serve v2")
    say("   It stood its trial and its watch beside v1: v2 is in production.")
    _until(lambda: _idle("promote"))


def _worse(place: Path, registry: Registry, say: Callable[[str], None]) -> None:
    from flows.asking import ask

    say("2. Somebody spoils the recipe: the models learn almost nothing.")
    good = (place / "recipe.yaml").read_text()
    spoilt = yaml.safe_load(good)
    for stage in ("semantic", "coarse", "fine"):
        spoilt["stages"][stage] |= {"steps": 1, "learning_rate": 1e-9}
    (place / "recipe.yaml").write_text(yaml.safe_dump(spoilt))
    ended = ask("retrain", wait=True)
    _check(not ended.good and "gate" in ended.told, ended.told)
    _check(list(registry.state(MODEL_NAME).versions) == ["v1", "v2"], "the worse model was registered")
    say(f"   {ended.told}. Nothing was registered.")
    (place / "recipe.yaml").write_text(good)


def _slow(place: Path, registry: Registry, say: Callable[[str], None]) -> None:
    from flows.asking import ask

    say("3. Somebody makes a stage hundreds of times as large. Its music passes the gate.")
    large = yaml.safe_load((place / "recipe.yaml").read_text())
    large["stages"]["coarse"] |= _LARGE
    (place / "recipe.yaml").write_text(yaml.safe_dump(large))
    ended = ask("retrain", wait=True)
    _check(ended.good and "v3" in ended.told, ended.told)
    say(f"   {ended.told}.")
    _until(lambda: registry.state(MODEL_NAME).history[-1].kind == "rollback")
    _check(set(registry.state(MODEL_NAME).stages.values()) == {"v2"}, "v3 kept a stage")
    smoke, canary = _trials(registry, "v3")
    _check(smoke.passed and not canary.passed, "v3 was not taken back by its watch")
    slowdown = canary.numbers["slowdown"]
    _check(slowdown > _SLOWDOWN, f"v3 was taken back for another reason: {canary.numbers}")
    say(f"   It stood its requests, and its first watch found it {slowdown:.1f} times as slow: staging is v2 again.")


def _trials(registry: Registry, version: str) -> list[Report]:
    """What the trials of a version found, in their order."""
    history = registry.state(MODEL_NAME).history
    return [event.report for event in history if event.report and event.version.name == version]


def _recipe(source: Path, endpoint: str) -> dict[str, Any]:
    """The built-in recipe nano, shrunk until it trains in moments, with the flows' sections."""
    recipe = yaml.safe_load(recipe_path("nano").read_text())
    for section, values in _SMALL.items():
        recipe[section] |= values
    recipe["data"]["source"] = str(source)
    recipe["stages"]["coarse_levels"] = 2
    for stage in ("semantic", "coarse", "fine"):
        recipe["stages"][stage] |= _STAGE
    recipe["stages"]["fine"]["window_seconds"] = 1.0
    recipe["gate"] = [
        {"metric": "audio.clipping_share", "at_most": 1.0},
        {"metric": "loss.semantic.mean", "at_most": 2.6},
    ]
    recipe["retrain"] = {"poll_minutes": 0.25, "min_new_hours": 0.001}
    recipe["promotion"] = {"endpoint": endpoint, "watches": 2, "watch_minutes": 0.1, "max_slowdown": _SLOWDOWN}
    return recipe


@contextmanager
def _service(out: Path, place: Path, port: int) -> Iterator[None]:
    """`v2meow serve` with production, and staging as a canary."""
    models = [{"name": f"{MODEL_NAME}@{stage}", "share": share} for stage, share in _SHARES.items()]
    settings = {"models": models, "workspace": str(place), "open": True, "refresh_s": 2.0, "spool": str(out / "spool")}
    with atomic_file(out / "serve.yaml") as file:
        file.write_text(yaml.safe_dump(settings))
    with (out / "serve.log").open("wb") as log:
        command = [*_COMMAND, "serve", "--config", str(out / "serve.yaml"), "--port", str(port)]
        child = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, preexec_fn=die_with(os.getpid())
        )
    try:
        _until(lambda: child.poll() is not None or b"Ctrl-C ends it" in (out / "serve.log").read_bytes())
        _check(child.poll() is None, f"the service did not start: see {out / 'serve.log'}")
        yield
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(60)


_SHARES = {"production": 0.9, "staging": 0.1}
_COMMAND = (sys.executable, "-m", "v2meow.cli")


def _v2meow(place: Path, *arguments: str) -> None:
    subprocess.run([*_COMMAND, *arguments], cwd=place, check=True)


def _idle(flow: str) -> bool:
    """Whether no run of the flow is under way."""
    from flows.asking import under_way

    return not under_way(flow)


def _until(come: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not come():
        _check(time.monotonic() < deadline, "it did not come to that: see the runs on Prefect's page")
        time.sleep(1.0)


def _check(good: bool, told: str) -> None:
    if not good:
        raise StoryError(told)


if __name__ == "__main__":
    tell(Path(sys.argv[1] if len(sys.argv) > 1 else "v2meow-story"))
