"""What is written about a model: versions and events, and the state that the events add up to.

Knows neither files nor the rules of promotion: it folds whatever history it is given.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

Kind = Literal["register", "assign", "rollback", "withdraw", "retire", "approve", "attest"]
_HAND_OVERS = ("assign", "rollback", "withdraw")  # the kinds by which a stage changes hands
_FALLS = ("rollback", "withdraw")  # those by which a version loses it


class RegistryError(ValueError):
    """A request that the registry refuses, or a log that it cannot trust."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """What was registered: a bundle's hash, where it came from, and the verdict that let it in."""

    model: str
    name: str
    bundle: str
    data_version: str
    git_revision: str
    gate_report: str  # SHA-256 of the verdict's file
    verdict: dict[str, Any]
    idempotency_key: str | None
    lineage: str | None = None  # SHA-256 of the table of videos that it was made from
    approvals: tuple[str, ...] = ()  # stages that it enters only with a person's approval


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a trial of a bundle found: `kind` such as smoke or canary, and the SHA-256 of the report's file."""

    kind: str
    passed: bool
    numbers: dict[str, Any]
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Event:
    """One entry of the history. The log fills in `number`, `previous_event`, `time` and `nonce` when it takes it."""

    kind: Kind
    version: Version
    evidence: str  # what allowed it; of an approval, a withdrawal or a retirement, the words of whoever did it
    actor: str
    stage: str | None = None
    expected_previous: str | None = None  # the version that held the stage; None when none did
    number: int = 0
    previous_event: str | None = None  # SHA-256 of the file before this one
    time: str = ""  # UTC, ISO 8601
    report: Report | None = None
    idempotency_key: str | None = None
    nonce: str | None = None  # tells two writers apart who ask for the same in the same second

    @property
    def key(self) -> str | None:
        """The idempotency key of the request; that of a registration stands in its version."""
        return self.version.idempotency_key if self.kind == "register" else self.idempotency_key


@dataclass(frozen=True, kw_only=True)
class ModelState:
    """What one model's events add up to. `head` is the SHA-256 of the newest event's file."""

    model: str
    history: tuple[Event, ...]
    head: str | None

    @cached_property
    def versions(self) -> dict[str, Version]:
        """Every registered version by its name, oldest first."""
        return {event.version.name: event.version for event in self.history if event.kind == "register"}

    @cached_property
    def stages(self) -> dict[str, str]:
        """The version that holds each stage; a stage that none holds is absent."""
        return {stage: holders[-1] for stage, holders in sorted(self._holders.items()) if holders}

    @cached_property
    def retired(self) -> dict[str, Event]:
        """The event that retired a version, by the version's name."""
        return {event.version.name: event for event in self.history if event.kind == "retire"}

    @cached_property
    def requests(self) -> dict[str, Event]:
        """The event that a request with an idempotency key led to."""
        return {event.key: event for event in reversed(self.history) if event.key is not None}

    def holders(self, stage: str) -> list[str]:
        """Versions that `stage` was handed through, the current one last.

        A rollback takes the last one off, and those before it that were retired meanwhile, so that a second
        rollback goes one further back instead of returning to the version that was just found bad.
        """
        return list(self._holders.get(stage, ()))

    def hand_overs(self, stage: str) -> list[Event]:
        """The events by which `stage` changed hands."""
        return [event for event in self.history if event.stage == stage and event.kind in _HAND_OVERS]

    def reports(self, version: Version, since: int = 0) -> dict[str, Event]:
        """The newest report of each kind on the very bundle of `version`, after the event numbered `since`."""
        return {
            event.report.kind: event
            for event in self.history[since:]
            if event.report and event.version.bundle == version.bundle
        }

    def approval(self, version: Version, stage: str, since: int = 0) -> Event | None:
        """The newest approval of the very bundle of `version` for `stage`, after the event numbered `since`."""
        asked = ("approve", stage, version.bundle)
        events = reversed(self.history[since:])
        return next((e for e in events if (e.kind, e.stage, e.version.bundle) == asked), None)

    def fell(self, version: Version, stage: str) -> int:
        """The number of the event by which `version` last lost `stage` as no good for it; 0 if never."""
        lost = (e for e in self.hand_overs(stage) if e.kind in _FALLS and e.expected_previous == version.name)
        return max((e.number for e in lost), default=0)

    @cached_property
    def _holders(self) -> dict[str, list[str]]:
        stages: dict[str, list[str]] = {}
        for event in self.history:
            if event.stage is None or event.kind not in _HAND_OVERS:
                continue
            holders = stages.setdefault(event.stage, [])
            if event.kind == "withdraw":
                holders.clear()
                continue
            if event.kind == "rollback":
                del holders[-1:]
                while holders and holders[-1] != event.version.name:
                    holders.pop()
            if not holders or event.kind == "assign":
                holders.append(event.version.name)
        return stages
