"""One model's log of events: each event's file, and reading all of them back.

Each file carries its own checksum and the hash of the file before it, so damage and edits are found; that the newest
events were deleted can be found only by whoever read them before. Knows no rules of promotion: it takes any event whose
number is still free.
"""

import hashlib
import json
import re
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any, get_args

from v2meow.registry.state import Event, Kind, ModelState, RegistryError, Report, Version
from v2meow.registry.store import Store

# Fields that came later, and what they are in files that lack them: a file is written as it was before them when they
# say nothing, so that the checksums of old logs still hold.
_LATER: dict[str, Any] = {"lineage": None, "approvals": [], "report": None, "nonce": None}


class EventLog:
    """The events of `model`, kept in `store` as 00000001.json, 00000002.json, … without a gap.

    What was read once is remembered, so that reading again costs only the comparison of files with their like.
    """

    def __init__(self, model: str, store: Store) -> None:
        self.model, self.store = model, store
        self._seen: tuple[list[bytes], ModelState] = ([], ModelState(model=model, history=(), head=None))

    def read(self) -> ModelState:
        """Read and check every event. RegistryError naming the file that is missing, damaged or edited."""
        seen, state = self._seen
        contents = self._contents()
        if len(contents) < len(seen):
            where = self.store.where(_file_name(len(contents) + 1))
            raise RegistryError(f"{where} is missing, but was there before: the log lost its newest events")
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(seen, contents, strict=False)))
        history = list(state.history[:same])
        head = hashlib.sha256(contents[same - 1]).hexdigest() if same else None
        for content in contents[same:]:
            history.append(self._decode(content, len(history) + 1, head))
            head = hashlib.sha256(content).hexdigest()
        if same < len(seen):
            raise RegistryError(f"{self.store.where(_file_name(same + 1))} is not what it was before: edited")
        if len(history) > same:
            state = ModelState(model=self.model, history=tuple(history), head=head)
        self._seen = (contents, state)
        return state

    def append(self, state: ModelState, event: Event) -> Event | None:
        """Write `event` as the one that follows `state`; None when another writer took that number."""
        event = replace(
            event,
            number=len(state.history) + 1,
            previous_event=state.head,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            nonce=uuid.uuid4().hex,
        )
        return event if self.store.put_if_absent(_file_name(event.number), _encode(event)) else None

    def _contents(self) -> list[bytes]:
        """Every file. A listing taken while others write may lack lower numbers that do exist."""
        names = self.store.names()
        for name in names:
            if not re.fullmatch(r"\d{8}\.json", name):
                raise RegistryError(f"{self.store.where(name)} is not an event and does not belong in a log")
        newest = max((int(name[:8]) for name in names), default=0)
        try:
            return self.store.get_all([_file_name(number) for number in range(1, newest + 1)])
        except FileNotFoundError as error:
            raise RegistryError(f"{self.store.where(str(error))} is missing, but later events exist") from None

    def _decode(self, content: bytes, number: int, head: str | None) -> Event:
        where = self.store.where(_file_name(number))
        try:
            event = _to_event(json.loads(content))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise RegistryError(f"{where} is not an event: {error}") from error
        if event.kind not in get_args(Kind) or _encode(event) != content:
            raise RegistryError(f"{where} was damaged or edited: it does not match its checksum")
        if (event.number, event.version.model, event.previous_event) != (number, self.model, head):
            raise RegistryError(f"{where} does not follow the event before it: edited or moved")
        return event


def _file_name(number: int) -> str:
    return f"{number:08d}.json"


def _to_event(fields: dict[str, Any]) -> Event:
    """The event that the fields of a file say. TypeError, ValueError or such when they say none."""
    del fields["sha256"]
    version = Version(**fields["version"] | {"approvals": tuple(fields["version"].get("approvals", ()))})
    report = fields.get("report")
    return Event(**fields | {"version": version, "report": Report(**report) if report else None})


def _encode(event: Event) -> bytes:
    """The event's file: JSON with a checksum of its own, since no later event vouches for the newest."""
    version = vars(event.version) | {"approvals": list(event.version.approvals)}
    report = vars(event.report) if event.report else None
    fields = _without_later(vars(event) | {"version": _without_later(version), "report": report})
    if event.idempotency_key is None:
        del fields["idempotency_key"]  # came later, too; that of a version did not
    checksum = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    return (json.dumps(fields | {"sha256": checksum}, indent=2, sort_keys=True) + "\n").encode()


def _without_later(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in _LATER or value != _LATER[name]}
