"""Where a registered version came from, back to its videos: registry, git and DVC asked one after the other.

What one of them cannot tell is said, and the rest is told all the same.
"""

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from v2meow import workspace
from v2meow.registry import Event, Registry, RegistryError, Version

if TYPE_CHECKING:
    import pyarrow as pa

CARD = "MODEL_CARD.md"
CLIPS, EXAMPLES = Path("data/clips"), Path("data/examples")


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """What is known of a version. `gaps`: what could not be reached, and why; each is a line for people."""

    version: Version
    events: tuple[Event, ...]  # all that concern it, the registration first
    holds: tuple[str, ...]  # stages
    card: str
    commit: str  # what git calls the revision
    data: dict[str, str]  # DVC's hashes of clips and examples, by path
    videos: "pa.Table | None"  # as in `data.origins`
    gaps: tuple[str, ...]


def trace(registry: Registry, version: Version, place: Path | None, *, verify: bool = False) -> Lineage:
    """Everything about `version`; `place` is the workspace whose git and DVC are asked.

    `verify` also fetches the clips of that revision from DVC and compares their videos with those that were registered.
    """
    state = registry.state(version.model)
    gaps: list[str] = []
    lock = _lock(version, place, gaps)
    outs = workspace.locked(lock) if lock else {}
    commit = (place and workspace.subject_at(place, version.git_revision)) or ""
    return Lineage(
        version=version,
        events=tuple(e for e in state.history if version.name in (e.version.name, e.expected_previous)),
        holds=tuple(stage for stage, holder in state.stages.items() if holder == version.name),
        card=_card(registry, version, gaps),
        commit=commit,
        data={path: outs[path] for path in (str(CLIPS), str(EXAMPLES)) if path in outs},
        videos=_videos(registry, version, place, verify, gaps),
        gaps=tuple(gaps),
    )


def plain(lineage: Lineage) -> dict[str, Any]:
    """All of it as JSON takes it, every video included."""
    return {
        "version": vars(lineage.version),
        "stages": lineage.holds,
        "events": [plain_event(event) for event in lineage.events],
        "card": lineage.card,
        "commit": lineage.commit,
        "data": lineage.data,
        "videos": None if lineage.videos is None else lineage.videos.to_pylist(),
        "gaps": lineage.gaps,
    }


def plain_event(event: Event) -> dict[str, Any]:
    """One event as JSON takes it; of its version only the name."""
    report = None if event.report is None else vars(event.report)
    return vars(event) | {"version": event.version.name, "report": report}


def _lock(version: Version, place: Path | None, gaps: list[str]) -> bytes | None:
    """The dvc.lock that the version was registered with."""
    if place is None:
        gaps.append("git and DVC: no workspace was named")
        return None
    lock = workspace.file_at(place, version.git_revision, "dvc.lock")
    if lock is None:
        gaps.append(f"git: {place} has no commit {version.git_revision[:12]} with a dvc.lock: fetch it from its remote")
    elif hashlib.sha256(lock).hexdigest() != version.data_version:
        gaps.append(f"dvc.lock of commit {version.git_revision[:12]} is not the one that was registered")
        return None
    return lock


def _card(registry: Registry, version: Version, gaps: list[str]) -> str:
    try:
        return registry.read(version, CARD).decode(errors="replace")
    except (RegistryError, OSError) as error:
        gaps.append(f"model card: {error}")
        return ""


def _videos(
    registry: Registry, version: Version, place: Path | None, verify: bool, gaps: list[str]
) -> "pa.Table | None":
    """The videos that were registered, else those of the clips that DVC has of that revision."""
    from v2meow.data import origins

    registered = None
    if version.lineage is not None:
        try:
            registered = origins.read(registry.attached(version.model, version.lineage))
        except (ValueError, OSError) as error:
            gaps.append(f"videos: {error}")
    if place is None or (registered is not None and not verify):
        return registered
    try:
        with tempfile.TemporaryDirectory() as folder:
            workspace.fetch_at(place, version.git_revision, str(CLIPS), Path(folder, "clips"))
            fetched = origins.videos_of(Path(folder, "clips", "clips.parquet"))
    except (ValueError, OSError) as error:
        gaps.append(f"videos: {error}")
        return registered
    if registered is not None and not fetched.equals(registered):
        gaps.append("videos: what DVC has of that revision differs from what was registered")
    return fetched if registered is None else registered
