"""The rules: what a verdict must say to let a bundle in, and what a version needs to hold a stage.

Pure functions of files and of the folded log; knows nothing of races, which the log decides.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NoReturn

from v2meow.registry.state import ModelState, RegistryError, Report, Version

STAGING, PRODUCTION = "staging", "production"
DEPLOYMENT_STAGES = (STAGING, PRODUCTION)
SMOKE = "smoke"  # the kind of report that production needs: requests against a real endpoint


def check_stage(stage: str) -> None:
    if stage not in DEPLOYMENT_STAGES:
        raise RegistryError(f"there is no stage {stage!r}; there are {' and '.join(DEPLOYMENT_STAGES)}")


def find_version(state: ModelState, version: str) -> Version:
    if version not in state.versions:
        raise RegistryError(f"{state.model} has no version {version!r}; registered: {', '.join(state.versions)}")
    return state.versions[version]


def check_not_retired(state: ModelState, version: Version) -> None:
    if retired := state.retired.get(version.name):
        raise RegistryError(f"{state.model}@{version.name} was retired by {retired.actor}: {retired.evidence}")


def may_hold(state: ModelState, version: Version, stage: str) -> str:
    """What allows `version` to hold `stage`, in words; RegistryError saying what is missing when nothing does.

    Staging needs the verdict that the version was registered with. Production needs that it was in staging, and a
    smoke report. Of every kind of report the newest must have passed. Where the version asks for it, a person must
    have approved. Reports and approvals from before the version was last rolled back from the stage do not count.
    """
    check_not_retired(state, version)
    since = state.fell(version, stage)
    reasons = [f"gate report {version.gate_report}"] if stage == STAGING else _production_reasons(state, version, since)
    if stage in version.approvals:
        approval = state.approval(version, stage, since)
        if approval is None:
            raise RegistryError(
                f"{state.model}@{version.name} needs a person's approval for {stage}: "
                f"v2meow models approve {state.model} {version.name} {stage}"
            )
        reasons.append(f"approved by {approval.actor} in event {approval.number}")
    return "; ".join(reasons)


def passing_verdict(path: Path, bundle_hash: str) -> tuple[str, dict[str, Any]]:
    """SHA-256 and content of the verdict, refused unless it passed for the bundle with `bundle_hash`."""
    digest, verdict = _read_json(path)
    if verdict.get("passed") is not True:
        raise RegistryError(f"{path}: the gate did not pass, so the bundle cannot be registered")
    if verdict.get("bundle") != bundle_hash:
        raise RegistryError(f"{path} is the verdict on bundle {verdict.get('bundle')}, not on {bundle_hash}")
    return digest, verdict


def read_report(path: Path, kind: str, bundle_hash: str) -> Report:
    """The report on a trial: {"passed": bool, "bundle": HASH, "numbers": {…}}, refused unless it is on that bundle."""
    digest, content = _read_json(path)
    passed, numbers = content.get("passed"), content.get("numbers", {})
    if not isinstance(passed, bool) or not isinstance(numbers, dict):
        raise RegistryError(f'{path} is no report: it needs "passed", true or false, and "numbers", a mapping')
    if content.get("bundle") != bundle_hash:
        raise RegistryError(f"{path} reports on bundle {content.get('bundle')}, not on {bundle_hash}")
    return Report(kind=kind, passed=passed, numbers=numbers, sha256=digest)


def _production_reasons(state: ModelState, version: Version, since: int) -> list[str]:
    name = f"{state.model}@{version.name}"
    staged = next((e.number for e in state.hand_overs(STAGING) if e.version.name == version.name), None)
    if staged is None:
        raise RegistryError(f"{name} has never been in {STAGING}: promote it there first")
    reports = state.reports(version, since)
    for kind, event in reports.items():
        if event.report and not event.report.passed:
            raise RegistryError(f"{name} failed its {kind} report, event {event.number}: it needs one that passes")
    if SMOKE not in reports:
        again = " since it was rolled back" if since else ""
        how = f"v2meow models attest {state.model} {version.name} {SMOKE} FILE"
        raise RegistryError(f"{name} has no {SMOKE} report{again}: {how}")
    passed = [f"{kind} report passed in event {event.number}" for kind, event in sorted(reports.items())]
    return [f"was in {STAGING} by event {staged}", *passed]


def _read_json(path: Path) -> tuple[str, dict[str, Any]]:
    """SHA-256 and content of a JSON object."""
    content = path.read_bytes()
    try:
        value = json.loads(content, parse_constant=_refuse_constant)
    except ValueError as error:
        raise RegistryError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise RegistryError(f"{path} holds no mapping: no gate and no trial did pass by it")
    return hashlib.sha256(content).hexdigest(), value


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")
