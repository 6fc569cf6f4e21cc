"""`retrain`: what is out of date is run in a worktree, brought home, judged, registered and put into staging.

Killed anywhere and started again it goes on: DVC knows what was made, a branch holds what was committed, and the same
bundle is never registered twice.
"""

import os
import re
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows import owed, pages
from flows.alone import alone
from flows.cost import Meter
from flows.steps import Pipeline
from v2meow import release, workspace
from v2meow.config import STAGES, Recipe, load_recipe
from v2meow.files import read_json
from v2meow.registry import REGISTRY_VARIABLE, Registry, Version
from v2meow.release import MODEL_NAME

STAGED = "v2meow.model.staged"  # the event that a version took staging
_ACTOR = "retrain"
_UNSTORED = Path(".dvc/tmp/unstored")  # there while DVC's remote lacks something that was made
_NETWORK = {"retries": 3, "retry_delay_seconds": [5, 30, 120], "cache_policy": NO_CACHE, "persist_result": False}


@flow(name="retrain", flow_run_name="retrain, {reason}", persist_result=False)
def retrain(folder: str, reason: str = "asked for") -> State[Any]:
    """Bring the model of the workspace `folder` up to its videos and recipe; one that passes its gate is staged.

    Completed as `Nothing new` where there was nothing to do. Failed where a step failed, and where the gate did not
    pass: nothing is registered then.
    """
    home = Path(folder).resolve()
    os.environ.setdefault(REGISTRY_VARIABLE, str(home / "registry"))  # the worktree has none of its own
    with alone(home, get_run_logger().info), owed.until_ended(home):
        return _bring_up(home)


@task(**_NETWORK)
def refresh(home: Path) -> str:
    """The revision to start from: what stands in the workspace, with what its git remote has."""
    return workspace.refresh(home)


@task(**_NETWORK)
def deliver(home: Path, branch: str) -> str:
    """The run's branch in the workspace's own, here and in its git remote."""
    return workspace.deliver(home, branch)


@task(**_NETWORK)
def store(home: Path) -> bool:
    """What was made, in DVC's remote."""
    return workspace.store(home)


@task(cache_policy=NO_CACHE, persist_result=False)
def register(place: Path) -> Version:
    """The bundle as a version, in staging unless it was there before; each of both happens once.

    Its trial is asked for, and again by a run that finds that none has begun: this one may be killed before it asks.
    """
    version = release.register(place, MODEL_NAME)
    registry = release.registry(place)
    new = all(event.version.name != version.name for event in registry.state(MODEL_NAME).hand_overs("staging"))
    if new:
        key = f"{_ACTOR} {version.bundle}"
        registry.promote(MODEL_NAME, version.name, "staging", actor=_ACTOR, idempotency_key=key)
    if new or (load_recipe(place / "recipe.yaml").promotion.endpoint and _untried(registry, version)):
        emit_event(STAGED, {"prefect.resource.id": f"v2meow.model.{MODEL_NAME}"}, payload={"version": version.name})
    return version


def _bring_up(home: Path) -> State[Any]:
    log, start = get_run_logger(), refresh(home)
    branch = f"runs/{_run_id()}"
    with workspace.worktree(home, start, branch) as place:
        recipe = load_recipe(place / "recipe.yaml")
        lock = _lock(place)
        limits = recipe.retrain
        meter = Meter(home, _gpus(recipe), max_cpu_hours=limits.max_cpu_hours, max_gpu_hours=limits.max_gpu_hours)
        pipeline = Pipeline(home=home, place=place, branch=branch, meter=meter, width=limits.side_by_side)
        try:
            ran = pipeline.run()
        finally:
            if pipeline.ran:  # what was made is kept, whatever came after
                workspace.snapshot(place, f"Retrain: {', '.join(pipeline.ran)}")
        if ran and limits.store:
            (home / _UNSTORED).touch()
        if ran or workspace.undelivered(home):
            deliver(home, branch)
        if limits.store and (home / _UNSTORED).exists():
            store(home)
            (home / _UNSTORED).unlink()
        log.info("%s", f"ran {', '.join(ran)}" if ran else "nothing was out of date")
        outcome = _release(place, changed=bool(ran))
        pages.run(ran, meter.told(), workspace.added_bytes(lock, _lock(place) or b""), place)
    return outcome


def _release(place: Path, *, changed: bool) -> State[Any]:
    """How the run ends: with a version in staging, at the gate, or with nothing to do."""
    if not (place / release.VERDICT).is_file():
        return Failed(message="the pipeline has no gate: there is no verdict")
    verdict = read_json(place / release.VERDICT)
    pages.verdict(verdict)
    if not verdict["passed"]:
        faults = [f"{row['metric']} {row['reason']}" for row in verdict["criteria"] if not row["passed"]]
        told = f"the gate did not pass: {'; '.join(faults)}"
        return Failed(message=told) if changed else Completed(name="Nothing new", message=told)
    version = register(place)
    told = f"{version.model}@{version.name} is registered"
    return Completed(message=told) if changed else Completed(name="Nothing new", message=told)


def _untried(registry: Registry, version: Version) -> bool:
    """Whether the version holds staging, and nothing is known yet of how it does there."""
    state = registry.state(version.model)
    return state.stages.get("staging") == version.name and not state.reports(version)


def _run_id() -> str:
    """The run's name as a part of a branch's."""
    return re.sub(r"[^a-z0-9-]+", "-", str(flow_run.id or "by-hand").lower())


def _lock(place: Path) -> bytes | None:
    lock = place / "dvc.lock"
    return lock.read_bytes() if lock.is_file() else None


def _gpus(recipe: Recipe) -> dict[str, float]:
    """GPUs that the steps hold while they run."""
    extract, train = recipe.extract, recipe.train
    of_training = {f"train@{stage}": float(train.gpus * train.workers) for stage in STAGES}
    return {"extract": extract.gpus * extract.workers * len(recipe.visual)} | of_training
