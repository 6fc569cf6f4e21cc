"""`promote`: staging → requests to the real service → a share of the traffic, watched → production; or back again.

What a version needs for a stage is the registry's to say: the flow brings the evidence. Which share staging has is
set where the service is configured; a rollback takes it from the version at once.
"""

import os
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run, resume_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows import pages
from v2meow import probe, release
from v2meow.config import PromotionConfig, load_recipe
from v2meow.files import write_json
from v2meow.registry import REGISTRY_VARIABLE, ConflictError, Registry, RegistryError, Version
from v2meow.release import MODEL_NAME

_ACTOR = "promote"
_SEEN_S = 180.0  # how long a service may take to load a version that took a stage
_LOOK_S = 2.0
_PLAIN: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False}


class Approval(RunInput):
    """What a person says on the run's page."""

    approved: bool
    who: str
    words: str


class RefusedError(RuntimeError):
    """A version that is not to be promoted, and why."""


@flow(name="promote", flow_run_name="promote {model}", persist_result=False)
def promote(folder: str, model: str = MODEL_NAME, endpoint: str = "") -> State[Any]:
    """Bring the version that holds staging to production, if the service at `endpoint` proves it good.

    Failed, with the reason, where it did not; staging, and production where it had it by then, are given back. Killed
    anywhere, the next run goes on: a version that took production and was not seen to answer is looked at then.
    """
    home = Path(folder).resolve()
    os.environ.setdefault(REGISTRY_VARIABLE, str(home / "registry"))
    limits = load_recipe(home / "recipe.yaml").promotion
    endpoint = endpoint or limits.endpoint
    registry = release.registry(home)
    if "staging" not in registry.state(model).stages:
        return Completed(name="Nothing new", message=f"no version of {model} is in staging")
    version = registry.find(f"{model}@staging")
    name, before = f"{model}@{version.name}", registry.state(model).stages.get("production")
    if before == version.name and _seen_in_production(registry, version):
        return Completed(name="Nothing new", message=f"{name} is in production already")
    if not endpoint:
        return Failed(message="there is no service to try it at: set promotion.endpoint in the recipe")
    try:
        if before != version.name:
            smoke(registry, version, endpoint, limits)
            canary(registry, version, endpoint, limits, before)
            approval(registry, version, limits)
            registry.promote(model, version.name, "production", actor=_ACTOR, expected_previous=before)
        serves(registry, version, endpoint, limits)
    except (RefusedError, RegistryError, probe.ProbeError) as reason:
        given_back = give_back(registry, version, str(reason))
        pages.decision(f"**{name} was refused**: {reason}.\n\n{given_back}")
        return Failed(message=f"{name} was refused: {reason}; {given_back}")
    pages.decision(f"**{name} is in production**, where {before or 'nothing'} was before.")
    return Completed(message=f"{name} is in production")


@flow(name="rollback", flow_run_name="rollback {stage}", persist_result=False)
def rollback(folder: str, stage: str = "production", model: str = MODEL_NAME) -> State[Any]:
    """Give a stage back to the version that held it before."""
    home = Path(folder).resolve()
    version = release.registry(home).rollback(model, stage, actor="rollback")
    pages.decision(f"**{model}@{stage} is {version.name} again**.")
    return Completed(message=f"{model}@{stage} is {version.name}")


@task(**_PLAIN)
def smoke(registry: Registry, version: Version, endpoint: str, limits: PromotionConfig) -> None:
    """Requests to the version itself, once the service has it. RefusedError."""
    name = f"{version.model}@{version.name}"
    _wait_until_served(endpoint, f"{version.model}@staging", name)
    answers = [probe.ask(endpoint, name, limits.seconds, seed) for seed in range(limits.probes)]
    _attest(registry, version, "smoke", probe.judge(answers, (), limits))


@task(**_PLAIN)
def canary(registry: Registry, version: Version, endpoint: str, limits: PromotionConfig, before: str | None) -> None:
    """The version beside production, watch by watch, with everybody's requests. RefusedError at the first bad one."""
    name, log = f"{version.model}@{version.name}", get_run_logger()
    for watch in range(limits.watches):
        began = probe.failures(endpoint, name)
        time.sleep(60 * limits.watch_minutes)
        ended = probe.failures(endpoint, name)
        ours, usual = [], []
        for seed in range(watch * limits.probes, (watch + 1) * limits.probes):
            ours.append(probe.ask(endpoint, name, limits.seconds, seed))
            if before:
                usual.append(probe.ask(endpoint, f"{version.model}@{before}", limits.seconds, seed))
        found = probe.judge(ours, usual, limits, (max(0.0, ended[0] - began[0]), max(0.0, ended[1] - began[1])))
        log.info("watch %d of %d: %s", watch + 1, limits.watches, found.numbers)
        if not found.passed or watch + 1 == limits.watches:
            _attest(registry, version, "canary", found)


@task(**_PLAIN)
def serves(registry: Registry, version: Version, endpoint: str, limits: PromotionConfig) -> None:
    """Whether the service answers with it as production. RefusedError."""
    name = f"{version.model}@{version.name}"
    _wait_until_served(endpoint, f"{version.model}@production", name)
    answers = [probe.ask(endpoint, f"{version.model}@production", limits.seconds)]
    _attest(registry, version, "production", probe.judge(answers, (), limits))


def approval(registry: Registry, version: Version, limits: PromotionConfig) -> None:
    """Wait for a person where the version asks for one: on the run's page, or `v2meow models approve`."""
    if "production" not in version.approvals or _approved(registry, version):
        return
    ended = threading.Event()
    threading.Thread(
        target=_resume_when_approved, args=(UUID(str(flow_run.id)), registry, version, ended), daemon=True
    ).start()
    try:
        said = pause_flow_run(
            wait_for_input=Approval.with_initial_data(
                description=f"May {version.model}@{version.name} go to production?", approved=False, who="", words=""
            ),
            timeout=round(3600 * limits.approval_hours),
            poll_interval=round(_LOOK_S),
        )
    except FlowPauseTimeout:
        raise RefusedError(f"nobody approved of it within {limits.approval_hours:g} hours") from None
    finally:
        ended.set()
    if not _approved(registry, version):
        if not said.approved:
            raise RefusedError(f"{said.who or 'a person'} did not approve: {said.words or 'no reason given'}")
        registry.approve(version.model, version.name, "production", actor=said.who, text=said.words)


@task(**_PLAIN)
def give_back(registry: Registry, version: Version, reason: str) -> str:
    """Take the stages that the version holds from it, and tell who has them."""
    told = []
    for stage in ("production", "staging"):
        if registry.state(version.model).stages.get(stage) != version.name:
            continue
        try:
            holder = registry.rollback(version.model, stage, actor=_ACTOR).name
            told.append(f"{stage} is {holder} again")
        except ConflictError as other:
            told.append(f"{stage} is not ours to give back: {other}")
        except RegistryError:  # it was the first one ever: nobody is to be tried, or served, with what was refused
            registry.withdraw(version.model, stage, actor=_ACTOR, reason=reason)
            told.append(f"nothing is in {stage}, as before")
    return "; ".join(told) or "nothing had to be given back"


def _seen_in_production(registry: Registry, version: Version) -> bool:
    """Whether the service was found to answer with it since it took production."""
    state = registry.state(version.model)
    took = state.hand_overs("production")[-1].number
    seen = state.reports(version, took).get("production")
    return seen is not None or state.hand_overs("production")[-1].actor != _ACTOR


def _approved(registry: Registry, version: Version) -> bool:
    state = registry.state(version.model)
    return state.approval(version, "production", state.fell(version, "production")) is not None


def _resume_when_approved(run: UUID, registry: Registry, version: Version, ended: threading.Event) -> None:
    while not ended.wait(_LOOK_S):
        with suppress(Exception):  # not paused yet, or the server is away: look again
            if _approved(registry, version):
                resume_flow_run(run, run_input={"approved": True, "who": "the registry", "words": "approved there"})


def _attest(registry: Registry, version: Version, kind: str, found: probe.Finding) -> None:
    """Keep the finding in the registry, and on the run's page. RefusedError where it is bad."""
    pages.trial(kind, found.numbers, found.reasons)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{kind}.json"
        write_json(file, probe.report(found, version.bundle))
        registry.attest(version.model, version.name, kind, file, actor=_ACTOR)
    if not found.passed:
        raise RefusedError(f"{kind}: {'; '.join(found.reasons)}")


def _wait_until_served(endpoint: str, name: str, version: str) -> None:
    deadline = time.monotonic() + _SEEN_S
    found: dict[str, str] = {}
    while time.monotonic() < deadline:
        with suppress(probe.ProbeError):
            found = probe.served(endpoint)
        if found.get(name) == version:
            return
        time.sleep(_LOOK_S)
    raise RefusedError(f"{endpoint} serves {found.get(name, 'nothing')} as {name}, not {version}")
