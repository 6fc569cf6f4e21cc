"""A model's log as GTO's tags, so that `gto show` and `dvc artifacts get` say what the registry says.

    v2meow@v3.0.0          version v3 was registered; its commit is the one that it was made from
    v2meow#production!#12  event 12 took production from the version of that commit
    v2meow#production#12   event 12 gave production to the version of that commit
    v2meow@v3.0.0!#15      event 15 retired v3

A stage is taken from its holder first: of several versions that were given one, GTO shows the greatest in one place and
the newest in another. And it takes the tag with the newest date for the last word, whatever its number, so dates follow
the order of events: where a writer's clock was behind, its tag gets the second after the one before. The tags follow
from the log alone, wherever they are made. Knows nothing of git.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime

from v2meow.registry.state import Event, ModelState, RegistryError

_NAME = r"[a-zA-Z0-9]([a-zA-Z0-9-/_]*[a-zA-Z0-9])?"  # what GTO takes for the name of an artifact


@dataclass(frozen=True, kw_only=True)
class Tag:
    """An annotated tag: `time` in seconds since 1970, `target` a commit."""

    name: str
    target: str
    tagger: str
    time: int
    message: str


def tags(state: ModelState, commits: Collection[str]) -> tuple[list[Tag], list[str]]:
    """The tags of a model in the order of its events, and why some events have none.

    `commits` are those that the repository has. GTO knows a version by its commit alone, so of several versions of one
    commit only the first has tags. Raises RegistryError for a model that GTO cannot name.
    """
    if not re.fullmatch(_NAME, state.model):
        raise RegistryError(f"GTO cannot name a model {state.model!r}: it takes letters, digits, '-' and '_'")
    missing = {name: reason for name, reason in _problems(state, commits).items() if reason}
    made: list[Tag] = []
    assigned: dict[str, str] = {}  # the commit that GTO holds for each stage
    time = 0
    for event in state.history:
        time = max(time, int(datetime.fromisoformat(event.time).timestamp()))
        for name, target in _names(event, event.version.name in missing, assigned):
            time += 1
            made.append(Tag(name=name, target=target, tagger=event.actor, time=time, message=_message(event)))
    return made, list(missing.values())


def is_tag_of(model: str, name: str) -> bool:
    """Whether a tag of git is one of GTO's for that model."""
    return name.startswith((f"{model}@", f"{model}#"))


def _problems(state: ModelState, commits: Collection[str]) -> dict[str, str]:
    """Why a version has no tags, by its name; empty for those that have."""
    problems: dict[str, str] = {}
    first: dict[str, str] = {}
    for version in state.versions.values():
        commit = version.git_revision
        problems[version.name] = ""
        if commit not in commits:
            problems[version.name] = f"{state.model}@{version.name}: commit {commit[:12]} is not in this repository"
        elif commit in first:
            problems[version.name] = f"{state.model}@{version.name}: its commit is that of {first[commit]} already"
        else:
            first[commit] = version.name
    return problems


def _names(event: Event, absent: bool, assigned: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Names and commits of an event's tags; `assigned` is brought up to date."""
    version, commit = event.version, event.version.git_revision
    release = f"{version.model}@{version.name}.0.0"
    if event.kind in ("assign", "rollback", "withdraw") and event.stage:
        if before := assigned.pop(event.stage, None):
            yield f"{version.model}#{event.stage}!#{event.number}", before
        if not absent and event.kind != "withdraw":
            assigned[event.stage] = commit
            yield f"{version.model}#{event.stage}#{event.number}", commit
    elif not absent and event.kind == "register":
        yield release, commit
    elif not absent and event.kind == "retire":
        yield f"{release}!#{event.number}", commit


def _message(event: Event) -> str:
    where = f" {event.stage}" if event.stage else ""
    return (
        f"{event.kind} {event.version.name}{where}: {event.evidence}\n\n"
        f"event {event.number}\nbundle {event.version.bundle}\ntime {event.time}\n"
    )
