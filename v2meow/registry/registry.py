"""The rules: what may be registered, what may hold a stage, and who wins when two ask at once.

Trusts a verdict that passed and names the very bundle, and nothing else; knows nothing of training
or serving. Every rule is checked against the folded log, and the event that follows from it takes
the log's next number or is not written at all.
"""

import fcntl
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from v2meow import bundle
from v2meow.registry.log import Event, EventLog, ModelState, RegistryError, Version
from v2meow.registry.store import FolderStore

STAGING, PRODUCTION = "staging", "production"
DEPLOYMENT_STAGES = (STAGING, PRODUCTION)
UNSET = "unset"  # no version is called so; None already means "no version holds the stage"


class ConflictError(RegistryError):
    """The stage is not held by the version that the caller expected: somebody else was first."""


class Registry:
    """Register, promote, roll back and find models below one folder. Safe for many processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def models(self) -> list[str]:
        """Names of the models that have at least one event."""
        if not self.root.is_dir():
            return []
        return sorted(path.name for path in self.root.iterdir() if FolderStore(path / "log").names())

    def state(self, model: str) -> ModelState:
        """Versions, stages and history of `model`. RegistryError if it is unknown or its log is damaged."""
        state = self._log(model).read()
        if not state.history:
            raise RegistryError(f"there is no model {model!r} in {self.root}; {_listed(self.models())}")
        return state

    def register(
        self,
        model: str,
        bundle_dir: Path,
        verdict_path: Path,
        *,
        data_version: str,
        git_revision: str,
        actor: str,
        idempotency_key: str | None = None,
    ) -> Version:
        """Store the bundle and give it the next version, or return the version that it already has.

        Registering is valid whatever the log says meanwhile, so a lost race is tried again.
        Raises RegistryError unless the verdict passed and names this very bundle, and when
        `idempotency_key` was used for another one; BundleError when the bundle is damaged.
        """
        log = self._log(model)
        digest = bundle.verify(bundle_dir)
        gate_report, verdict = _passing_verdict(verdict_path, digest)
        self._store_bundle(model, bundle_dir, digest)
        while True:
            state = log.read()
            if existing := _already_registered(state, digest, idempotency_key):
                return existing
            version = Version(
                model=model,
                name=f"v{len(state.versions) + 1}",
                bundle=digest,
                data_version=data_version,
                git_revision=git_revision,
                gate_report=gate_report,
                verdict=verdict,
                idempotency_key=idempotency_key,
            )
            event = Event(kind="register", version=version, evidence=f"gate report {gate_report}", actor=actor)
            if log.append(state, event):
                return version

    def promote(
        self, model: str, version: str, stage: str, *, actor: str, expected_previous: str | None = UNSET
    ) -> Event:
        """Give `stage` to `version`; return the event, or the earlier one when it holds the stage already.

        `expected_previous` is the version that must hold the stage now (None: no version); left
        unset it is whichever holds it when this call starts. Of two promotions at once exactly
        one wins and the other raises ConflictError: it is never retried over the winner.
        """
        _check_stage(stage)
        state = self.state(model)
        promoted = _find_version(state, version)
        holder = state.stages.get(stage)
        expected = holder if expected_previous == UNSET else expected_previous
        if holder == expected == version:
            return next(event for event in reversed(state.history) if event.stage == stage)
        event = Event(
            kind="assign",
            version=promoted,
            evidence=_evidence(state, promoted, stage),
            actor=actor,
            stage=stage,
            expected_previous=expected,
        )
        return self._hand_over(state, stage, event)

    def rollback(self, model: str, stage: str, *, actor: str) -> Version:
        """Give `stage` back to the version that held it before, and return that version.

        Raises RegistryError when no version held it before, and ConflictError when the stage
        changed hands meanwhile: two rollbacks at once must not go back two versions.
        """
        _check_stage(stage)
        state = self.state(model)
        holders = state.holders(stage)
        if len(holders) < 2:
            reason = f"no version held it before {holders[0]}" if holders else "no version holds it"
            raise RegistryError(f"{model}@{stage} cannot be rolled back: {reason}")
        event = Event(
            kind="rollback",
            version=state.versions[holders[-2]],
            evidence=f"held {stage} before {holders[-1]}",
            actor=actor,
            stage=stage,
            expected_previous=holders[-1],
        )
        return self._hand_over(state, stage, event).version

    def resolve(self, name: str) -> Path:
        """The verified folder of the bundle that `name`, MODEL@STAGE or MODEL@v3, stands for."""
        model, separator, wanted = name.partition("@")
        if not separator:
            raise RegistryError(f"{name!r} names no version: write MODEL@STAGE or MODEL@v3; {_listed(self.models())}")
        state = self.state(model)
        if re.fullmatch(r"v\d+", wanted):
            return self._verified(_find_version(state, wanted))
        _check_stage(wanted)
        if wanted not in state.stages:
            raise RegistryError(f"no version of {model} holds {wanted}; registered: {', '.join(state.versions)}")
        return self._verified(state.versions[state.stages[wanted]])

    def _hand_over(self, state: ModelState, stage: str, event: Event) -> Event:
        """Append `event`, which gives `stage` away, unless its expected holder does not hold it."""
        holders = state.holders(stage)
        if state.stages.get(stage) != event.expected_previous:
            raise _conflict(state, stage, event)
        self._verified(event.version)
        log = self._log(state.model)
        while not (written := log.append(state, event)):
            # The number may have gone to an event that has nothing to do with this stage.
            state = log.read()
            if state.holders(stage) != holders:
                raise _conflict(state, stage, event)
        return written

    def _log(self, model: str) -> EventLog:
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", model):
            raise RegistryError(
                f"{model!r} cannot name a model: it takes a-z, 0-9, '.', '_' and '-', a letter or digit first"
            )
        return EventLog(model, FolderStore(self.root / model / "log"))

    def _verified(self, version: Version) -> Path:
        """The stored bundle's folder, every file hashed again."""
        folder = self.root / version.model / "bundles" / version.bundle
        try:
            found = bundle.verify(folder)
            problem = f"{folder} holds another bundle, {found}" if found != version.bundle else ""
        except bundle.BundleError as error:
            problem = str(error)
        if problem:
            raise RegistryError(
                f"{version.model}@{version.name} cannot be used: {problem}; registering its bundle again restores it"
            )
        return folder

    def _store_bundle(self, model: str, source: Path, digest: str) -> None:
        """Keep a verified copy of the bundle, replacing one that was damaged since."""
        bundles = self.root / model / "bundles"
        with _only_writer(bundles):
            for leftover in bundles.glob(".*.*"):  # of writers that were killed: none is alive under the lock
                shutil.rmtree(leftover)
            try:
                intact = bundle.verify(bundles / digest) == digest
            except bundle.BundleError:
                intact = False
            if not intact:
                bundle.copy(source, bundles / digest, digest)


def _check_stage(stage: str) -> None:
    if stage not in DEPLOYMENT_STAGES:
        raise RegistryError(f"there is no stage {stage!r}; there are {' and '.join(DEPLOYMENT_STAGES)}")


def _listed(models: list[str]) -> str:
    return f"there are {', '.join(models)}" if models else "nothing is registered yet"


def _find_version(state: ModelState, version: str) -> Version:
    if version not in state.versions:
        raise RegistryError(f"{state.model} has no version {version!r}; registered: {', '.join(state.versions)}")
    return state.versions[version]


def _passing_verdict(path: Path, bundle_hash: str) -> tuple[str, dict[str, Any]]:
    """SHA-256 and content of the verdict, refused unless it passed for the bundle with `bundle_hash`."""
    content = path.read_bytes()
    try:
        verdict = json.loads(content, parse_constant=_refuse_constant)
    except ValueError as error:
        raise RegistryError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(verdict, dict) or verdict.get("passed") is not True:
        raise RegistryError(f"{path}: the gate did not pass, so the bundle cannot be registered")
    if verdict.get("bundle") != bundle_hash:
        raise RegistryError(f"{path} is the verdict on bundle {verdict.get('bundle')}, not on {bundle_hash}")
    return hashlib.sha256(content).hexdigest(), verdict


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _already_registered(state: ModelState, bundle_hash: str, key: str | None) -> Version | None:
    by_bundle = {version.bundle: version for version in state.versions.values()}
    by_key = {version.idempotency_key: version for version in state.versions.values()}
    if bundle_hash not in by_bundle and key is not None and key in by_key:
        raise RegistryError(f"idempotency key {key!r} was used for {by_key[key].name}, which is another bundle")
    return by_bundle.get(bundle_hash)


def _evidence(state: ModelState, version: Version, stage: str) -> str:
    """What allows `version` to hold `stage`; RegistryError when nothing does."""
    if stage == STAGING:
        return f"gate report {version.gate_report}"
    for event in state.history:
        if event.stage == STAGING and event.version.name == version.name:
            return f"was in {STAGING} by event {event.number}"
    raise RegistryError(f"{state.model}@{version.name} has never been in {STAGING}: promote it there first")


def _conflict(state: ModelState, stage: str, event: Event) -> ConflictError:
    holder, expected = state.stages.get(stage, "no version"), event.expected_previous or "no version"
    return ConflictError(f"{state.model}@{stage} is held by {holder} now, where {expected} was expected")


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Hold the lock on a folder of bundles; the kernel frees it when its holder dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
