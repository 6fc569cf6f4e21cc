"""What can be done with models: register, attest, approve, promote, roll back, withdraw, retire, find; who wins a race.

Every request is checked against the folded log, and the event that follows from it takes the log's next number or is
not written at all. Knows nothing of training or serving, and trusts nothing but files that name the very bundle.
"""

import hashlib
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from v2meow import bundle
from v2meow.files import sha256
from v2meow.registry.log import EventLog
from v2meow.registry.place import FolderPlace, Place, S3Place, cache_of
from v2meow.registry.requests import conflict, done, no_earlier, registered, used
from v2meow.registry.rules import (
    check_not_retired,
    check_stage,
    find_version,
    may_hold,
    passing_verdict,
    read_report,
)
from v2meow.registry.state import Event, Kind, ModelState, RegistryError, Version

UNSET = "unset"  # no version is called so; None already means "no version holds the stage"
_MODEL = r"[a-z0-9][a-z0-9._-]*"
_LONGEST_WAIT_S = 0.05  # between attempts to take a number that others are after, too


class Registry:
    """The models below one folder or one address s3://BUCKET/PREFIX. Safe for many processes and threads at once.

    `root` is that folder, or the local one of what was fetched from S3. Every request that writes takes an
    `idempotency_key`: repeated with the same key it changes nothing and answers as it did, so that a caller who got no
    answer can ask again. A key that was used for something else is refused.
    """

    def __init__(self, root: Path | str) -> None:
        self.location = str(root)
        if self.location.startswith("s3://"):
            self.root = cache_of(self.location)
            self._place: Place = S3Place(self.location, self.root)
        else:
            self.root = Path(root)
            self._place = FolderPlace(self.root)
        self._logs: dict[str, EventLog] = {}

    def models(self) -> list[str]:
        """Names of the models that have at least one event."""
        return self._place.models()

    def state(self, model: str) -> ModelState:
        """Versions, stages and history of `model`. RegistryError if it is unknown or its log is damaged."""
        state = self._log(model).read()
        if not state.history:
            raise RegistryError(f"there is no model {model!r} in {self.location}; {_listed(self.models())}")
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
        lineage: Path | None = None,
        approvals: tuple[str, ...] = (),
    ) -> Version:
        """Store the bundle and give it the next version, or return the version that it already has.

        `lineage` is a file that says what the bundle was made from; it is kept under its hash. The stages in
        `approvals` will be closed to this version until a person approves.
        Registering is valid whatever the log says meanwhile, so a lost race is tried again.
        Raises RegistryError unless the verdict passed and names this very bundle, and when
        `idempotency_key` was used for another one; BundleError when the bundle is damaged.
        """
        for stage in approvals:
            check_stage(stage)
        self._log(model)  # refuses a name that cannot be one before anything is stored under it
        digest = bundle.verify(bundle_dir)
        gate_report, verdict = passing_verdict(verdict_path, digest)
        self._place.bundles(model).publish(bundle_dir, digest)
        origin = None if lineage is None else self._attach(model, lineage)

        def decide(state: ModelState) -> Event:
            if known := registered(state, digest):
                return known
            if idempotency_key in state.requests:
                raise used(idempotency_key, state)
            version = Version(
                model=model,
                name=f"v{len(state.versions) + 1}",
                bundle=digest,
                data_version=data_version,
                git_revision=git_revision,
                gate_report=gate_report,
                verdict=verdict,
                idempotency_key=idempotency_key,
                lineage=origin,
                approvals=approvals,
            )
            return Event(kind="register", version=version, evidence=f"gate report {gate_report}", actor=actor)

        return self._write(self._log(model).read(), decide).version

    def attest(
        self, model: str, version: str, kind: str, report: Path, *, actor: str, idempotency_key: str | None = None
    ) -> Event:
        """Record what a trial of the version found, passed or not; the file is kept under its hash.

        `report` is JSON: {"passed": bool, "bundle": HASH, "numbers": {…}}. Production needs a passing one of kind
        `smoke`. Raises RegistryError when it is none, or is on another bundle.
        """
        if not re.fullmatch(r"[a-z][a-z0-9-]*", kind):
            raise RegistryError(f"{kind!r} is no kind of report: it takes a-z, 0-9 and '-', a letter first")
        state = self.state(model)
        tried = find_version(state, version)
        found = read_report(report, kind, tried.bundle)
        self._attach(model, report)
        words = f"{kind} report {found.sha256} {'passed' if found.passed else 'failed'}"

        def decide(state: ModelState) -> Event:
            newest = state.reports(tried).get(kind)
            if newest and newest.report == found:
                return newest
            return Event(
                kind="attest", version=tried, evidence=words, actor=actor, report=found, idempotency_key=idempotency_key
            )

        return self._write(state, decide, idempotency_key, ("attest", version, None))

    def approve(
        self, model: str, version: str, stage: str, *, actor: str, text: str, idempotency_key: str | None = None
    ) -> Event:
        """Record that a person approves of the version's very bundle in `stage`, in that person's words."""
        check_stage(stage)
        if not (text.strip() and actor.strip()):
            raise RegistryError("an approval needs a person's name and words")
        state = self.state(model)
        approved = find_version(state, version)

        def decide(state: ModelState) -> Event:
            check_not_retired(state, approved)
            return Event(
                kind="approve",
                version=approved,
                evidence=text.strip(),
                actor=actor,
                stage=stage,
                idempotency_key=idempotency_key,
            )

        return self._write(state, decide, idempotency_key, ("approve", version, stage))

    def promote(
        self,
        model: str,
        version: str,
        stage: str,
        *,
        actor: str,
        expected_previous: str | None = UNSET,
        idempotency_key: str | None = None,
    ) -> Event:
        """Give `stage` to `version`; return the event, or the earlier one when it holds the stage already.

        `expected_previous` is the version that must hold the stage now (None: no version); left
        unset it is whichever holds it when this call starts. Of two promotions at once exactly
        one wins and the other raises ConflictError: it is never retried over the winner.
        Raises RegistryError saying what is missing, see `rules.may_hold`.
        """
        check_stage(stage)
        state = self.state(model)
        promoted, holders = find_version(state, version), state.holders(stage)
        expected = state.stages.get(stage) if expected_previous == UNSET else expected_previous

        def decide(state: ModelState) -> Event:
            holder = state.stages.get(stage)
            if holder == expected == version:
                return state.hand_overs(stage)[-1]
            if state.holders(stage) != holders or holder != expected:
                raise conflict(state, stage, expected)
            return Event(
                kind="assign",
                version=promoted,
                evidence=may_hold(state, promoted, stage),
                actor=actor,
                stage=stage,
                expected_previous=expected,
                idempotency_key=idempotency_key,
            )

        return self._write(state, decide, idempotency_key, ("assign", version, stage), usable=True)

    def rollback(self, model: str, stage: str, *, actor: str, idempotency_key: str | None = None) -> Version:
        """Give `stage` back to the version that held it before and is not retired, and return that version.

        Raises RegistryError when no version held it before, and ConflictError when the stage
        changed hands meanwhile: two rollbacks at once must not go back two versions.
        """
        check_stage(stage)
        state = self.state(model)
        holders = state.holders(stage)

        def decide(state: ModelState) -> Event:
            if state.holders(stage) != holders:
                raise conflict(state, stage, holders[-1] if holders else None)
            earlier = [name for name in holders[:-1] if name not in state.retired]
            if not earlier:
                empty = f"; to empty it: v2meow models withdraw {model} {stage} -m WHY" if holders else ""
                raise RegistryError(f"{model}@{stage} cannot be rolled back: {no_earlier(holders)}{empty}")
            return Event(
                kind="rollback",
                version=state.versions[earlier[-1]],
                evidence=f"held {stage} before {holders[-1]}",
                actor=actor,
                stage=stage,
                expected_previous=holders[-1],
                idempotency_key=idempotency_key,
            )

        return self._write(state, decide, idempotency_key, ("rollback", None, stage), usable=True).version

    def withdraw(self, model: str, stage: str, *, actor: str, reason: str, idempotency_key: str | None = None) -> Event:
        """Take `stage` from the first version that ever held it, so that none does; a rollback has nobody to go to.

        RegistryError where an earlier version can take it, or none holds it; ConflictError when the stage changed hands
        meanwhile.
        """
        check_stage(stage)
        if not reason.strip():
            raise RegistryError(f"withdrawing what holds {model}@{stage} needs a reason")
        state = self.state(model)
        holders = state.holders(stage)

        def decide(state: ModelState) -> Event:
            if state.holders(stage) != holders:
                raise conflict(state, stage, holders[-1] if holders else None)
            if not holders:
                raise RegistryError(f"no version holds {model}@{stage}")
            if earlier := [name for name in holders[:-1] if name not in state.retired]:
                raise RegistryError(f"{model}@{stage} can go back to {earlier[-1]}: roll it back")
            return Event(
                kind="withdraw",
                version=state.versions[holders[-1]],
                evidence=reason.strip(),
                actor=actor,
                stage=stage,
                expected_previous=holders[-1],
                idempotency_key=idempotency_key,
            )

        return self._write(state, decide, idempotency_key, ("withdraw", None, stage))

    def retire(self, model: str, version: str, *, actor: str, reason: str, idempotency_key: str | None = None) -> Event:
        """Close every stage to the version for good; return the event, or the one that retired it before.

        Raises RegistryError while it holds a stage.
        """
        if not reason.strip():
            raise RegistryError(f"retiring {model}@{version} needs a reason")
        state = self.state(model)
        retired = find_version(state, version)

        def decide(state: ModelState) -> Event:
            if version in state.retired:
                return state.retired[version]
            if held := [stage for stage, holder in state.stages.items() if holder == version]:
                raise RegistryError(f"{model}@{version} holds {' and '.join(held)}: give that to another version first")
            return Event(
                kind="retire", version=retired, evidence=reason.strip(), actor=actor, idempotency_key=idempotency_key
            )

        return self._write(state, decide, idempotency_key, ("retire", version, None))

    def find(self, name: str) -> Version:
        """The version that `name`, MODEL@STAGE or MODEL@v3, stands for. RegistryError telling what there is."""
        model, separator, wanted = name.partition("@")
        if not separator:
            raise RegistryError(f"{name!r} names no version: write MODEL@STAGE or MODEL@v3; {_listed(self.models())}")
        state = self.state(model)
        if re.fullmatch(r"v\d+", wanted):
            return find_version(state, wanted)
        check_stage(wanted)
        if wanted not in state.stages:
            raise RegistryError(f"no version of {model} holds {wanted}; registered: {', '.join(state.versions)}")
        return state.versions[state.stages[wanted]]

    def resolve(self, name: str) -> Path:
        """The verified folder of the bundle that `name` stands for. RegistryError for one that was retired, too."""
        version = self.find(name)
        check_not_retired(self.state(version.model), version)
        with _told(version):
            return self._place.bundles(version.model).folder(version.bundle)

    def read(self, version: Version, name: str) -> bytes:
        """One file of a version's bundle, such as MODEL_CARD.md, checked by its hash."""
        with _told(version):
            return self._place.bundles(version.model).read(version.bundle, name)

    def attached(self, model: str, digest: str) -> bytes:
        """The report or table that events of `model` name by its SHA-256. RegistryError if it is missing or damaged."""
        store = self._place.attached(model)
        try:
            (content,) = store.get_all([digest])
        except FileNotFoundError:
            raise RegistryError(f"{store.where(digest)} is missing") from None
        if hashlib.sha256(content).hexdigest() != digest:
            raise RegistryError(f"{store.where(digest)} is damaged: it is not what its name says")
        return content

    def _attach(self, model: str, file: Path) -> str:
        digest = sha256(file)
        self._place.attached(model).put_if_absent(digest, file.read_bytes())
        return digest

    def _write(
        self,
        state: ModelState,
        decide: Callable[[ModelState], Event],
        key: str | None = None,
        request: tuple[Kind, str | None, str | None] | None = None,
        *,
        usable: bool = False,
    ) -> Event:
        """Append what `decide` makes of the state, which is asked again whenever another writer took the number.

        An event that is in the log already is the answer as it is, and so is the one that the same request with the
        same key led to. `usable`: the bundle must be whole.
        """
        log = self._log(state.model)
        wait, checked = 0.001, ""
        while True:
            if request and (earlier := done(state, key, request)):
                return earlier
            event = decide(state)
            if event.number:
                return event
            if usable and checked != event.version.bundle:
                with _told(event.version):
                    self._place.bundles(state.model).check(event.version.bundle)
                checked = event.version.bundle
            if written := log.append(state, event):
                return written
            time.sleep(random.uniform(0.0, wait))  # noqa: S311
            wait = min(2 * wait, _LONGEST_WAIT_S)
            state = log.read()

    def _log(self, model: str) -> EventLog:
        if model not in self._logs:
            if not re.fullmatch(_MODEL, model):
                raise RegistryError(
                    f"{model!r} cannot name a model: it takes a-z, 0-9, '.', '_' and '-', a letter or digit first"
                )
            self._logs[model] = EventLog(model, self._place.log(model))
        return self._logs[model]


@contextmanager
def _told(version: Version) -> Iterator[None]:
    """What is wrong with a version's bundle, as an error of the registry."""
    try:
        yield
    except bundle.BundleError as error:
        raise RegistryError(
            f"{version.model}@{version.name} cannot be used: {error}; registering its bundle again restores it"
        ) from error


def _listed(models: list[str]) -> str:
    return f"there are {', '.join(models)}" if models else "nothing is registered yet"
