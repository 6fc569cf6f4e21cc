"""One model's log of events: what an event is, its file, and the state that the events add up to.

Each file carries its own checksum and the hash of the file before it, so damage and edits are
found; that the newest events were deleted cannot be. Knows no rules of promotion: it takes any
event whose number is still free.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from v2meow.registry.store import FolderStore

Kind = Literal["register", "assign", "rollback"]


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


@dataclass(frozen=True, kw_only=True)
class Event:
    """One entry of the history. The log fills in the last three fields when it takes the event."""

    kind: Kind
    version: Version
    evidence: str  # what allowed it
    actor: str
    stage: str | None = None
    expected_previous: str | None = None  # the version that held the stage; None when none did
    number: int = 0
    previous_event: str | None = None  # SHA-256 of the file before this one
    time: str = ""  # UTC, ISO 8601


@dataclass(frozen=True, kw_only=True)
class ModelState:
    """What one model's events add up to. `head` is the SHA-256 of the newest event's file."""

    model: str
    history: tuple[Event, ...]
    head: str | None

    @property
    def versions(self) -> dict[str, Version]:
        """Every registered version by its name, oldest first."""
        return {event.version.name: event.version for event in self.history if event.kind == "register"}

    @property
    def stages(self) -> dict[str, str]:
        """The version that holds each stage; a stage that none holds is absent."""
        named = {event.stage for event in self.history if event.stage}
        return {stage: holders[-1] for stage in sorted(named) if (holders := self.holders(stage))}

    def holders(self, stage: str) -> list[str]:
        """Versions that `stage` was handed through, the current one last.

        A rollback takes the last one off, so that a second rollback goes one further back
        instead of returning to the version that was just found bad.
        """
        holders: list[str] = []
        for event in self.history:
            if event.stage == stage:
                holders = holders[:-1] if event.kind == "rollback" else [*holders, event.version.name]
        return holders


class EventLog:
    """The events of `model`, kept in `store` as 00000001.json, 00000002.json, … without a gap."""

    def __init__(self, model: str, store: FolderStore) -> None:
        self.model, self.store = model, store

    def read(self) -> ModelState:
        """Read and check every event. RegistryError naming the file that is missing, damaged or edited."""
        history: list[Event] = []
        head = None
        for number in range(1, self._length() + 1):
            name = _file_name(number)
            try:
                content = self.store.get(name)
            except FileNotFoundError:
                raise RegistryError(f"{self.store.folder / name} is missing, but later events exist") from None
            event = self._decode(content, name)
            if (event.number, event.version.model, event.previous_event) != (number, self.model, head):
                raise RegistryError(f"{self.store.folder / name} does not follow the event before it: edited or moved")
            history.append(event)
            head = hashlib.sha256(content).hexdigest()
        return ModelState(model=self.model, history=tuple(history), head=head)

    def append(self, state: ModelState, event: Event) -> Event | None:
        """Write `event` as the one that follows `state`; None when another writer took that number."""
        event = replace(
            event,
            number=len(state.history) + 1,
            previous_event=state.head,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        return event if self.store.put_if_absent(_file_name(event.number), _encode(event)) else None

    def _length(self) -> int:
        """The highest number. A listing taken while others write may lack lower ones that do exist."""
        names = self.store.names()
        for name in names:
            if not re.fullmatch(r"\d{8}\.json", name):
                raise RegistryError(f"{self.store.folder / name} is not an event and does not belong in a log")
        return max((int(name[:8]) for name in names), default=0)

    def _decode(self, content: bytes, name: str) -> Event:
        try:
            fields = json.loads(content)
            del fields["sha256"]
            event = Event(**fields | {"version": Version(**fields["version"])})
        except (ValueError, LookupError, TypeError) as error:
            raise RegistryError(f"{self.store.folder / name} is not an event: {error}") from error
        if event.kind not in get_args(Kind) or _encode(event) != content:
            raise RegistryError(f"{self.store.folder / name} was damaged or edited: it does not match its checksum")
        return event


def _file_name(number: int) -> str:
    return f"{number:08d}.json"


def _encode(event: Event) -> bytes:
    """The event's file: JSON with a checksum of its own, since no later event vouches for the newest."""
    fields = asdict(event)
    checksum = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    return (json.dumps(fields | {"sha256": checksum}, indent=2, sort_keys=True) + "\n").encode()
