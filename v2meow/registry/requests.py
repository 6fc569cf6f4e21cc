"""Requests that were made before, and requests that came too late: what the log answers to them."""

from v2meow.registry.state import Event, Kind, ModelState, RegistryError


class ConflictError(RegistryError):
    """The stage is not held by the version that the caller expected: somebody else was first."""


def registered(state: ModelState, bundle_hash: str) -> Event | None:
    """The registration of a bundle; None when there was none."""
    events = (event for event in state.history if event.kind == "register")
    return next((event for event in events if event.version.bundle == bundle_hash), None)


def done(state: ModelState, key: str | None, request: tuple[Kind, str | None, str | None]) -> Event | None:
    """The event that the request (kind, version or None for any, stage) with this key has led to."""
    if key is None or key not in state.requests:
        return None
    event, (kind, version, stage) = state.requests[key], request
    if (event.kind, event.stage) != (kind, stage) or version not in (None, event.version.name):
        raise used(key, state)
    return event


def used(key: str | None, state: ModelState) -> RegistryError:
    """The refusal of a key that was used for another request."""
    event = state.requests[key or ""]
    other = "which is another bundle" if event.kind == "register" else f"event {event.number}, {event.kind}"
    return RegistryError(f"idempotency key {key!r} was used for {event.version.name}, {other}")


def conflict(state: ModelState, stage: str, expected: str | None) -> ConflictError:
    """What the loser of a race for `stage` is told."""
    holder, wanted = state.stages.get(stage, "no version"), expected or "no version"
    return ConflictError(f"{state.model}@{stage} is held by {holder} now, where {wanted} was expected")


def no_earlier(holders: list[str]) -> str:
    """Why a stage that these versions held, the present one last, cannot go back."""
    if not holders:
        return "no version holds it"
    if len(holders) == 1:
        return f"no version held it before {holders[0]}"
    return f"every version that held it before {holders[-1]} was retired"
