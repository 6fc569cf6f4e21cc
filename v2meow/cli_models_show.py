"""What `v2meow models show` and `log` print: tables for people of what the registry and a lineage hold."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from v2meow.lineage import Lineage
    from v2meow.registry import Event, ModelState

_VIDEOS = 10  # that are told one by one


def show_model(state: "ModelState") -> None:
    """Its versions and its history."""
    from rich.console import Console
    from rich.table import Table

    versions = Table("version", "", "bundle", "data", "git revision", "gate report", title="Versions")
    for version in state.versions.values():
        holds = [stage for stage, holder in state.stages.items() if holder == version.name]
        standing = "retired" if version.name in state.retired else ", ".join(holds)
        hashes = (version.bundle, version.data_version, version.git_revision, version.gate_report)
        versions.add_row(version.name, standing, *(digest[:12] for digest in hashes))
    Console().print(versions, events_table(state.history))


def events_table(history: "tuple[Event, ...]") -> Any:
    """A table of events."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("", "time", "event", "version", "stage", "by", "because", title="History")
    for event in history:
        row = (event.time, event.kind, event.version.name, event.stage or "", event.actor, event.evidence)
        table.add_row(str(event.number), *map(escape, row))
    return table


def show_version(found: "Lineage") -> None:
    """Its card, what it came from, what happened to it, and what could not be reached."""
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.text import Text

    version, console = found.version, Console(highlight=False)
    if found.card:
        console.print(Markdown(found.card))
    console.rule(f"{version.model}@{version.name}" + "".join(f" · {stage}" for stage in found.holds))
    for label, text in _facts(found):
        console.print(Text(f"{label:14}", "bold") + Text(text), soft_wrap=True)
    console.print(events_table(found.events))
    for gap in found.gaps:
        console.print(Text("not reached   ", "yellow") + Text(gap), soft_wrap=True)


def _facts(found: "Lineage") -> Iterator[tuple[str, str]]:
    """What a version came from, label by label."""
    from v2meow.data import origins

    version = found.version
    yield "bundle", version.bundle
    for row in version.verdict.get("criteria", ()):
        yield "gate", f"{row.get('metric')}: {row.get('reason', row.get('value'))}"
    for event in found.events:
        if event.report:
            numbers = ", ".join(f"{name} {value}" for name, value in event.report.numbers.items())
            yield event.report.kind, f"{'passed' if event.report.passed else 'failed'} {numbers}".strip()
    yield "recipe", str(version.verdict.get("recipe"))
    yield "git revision", f"{version.git_revision} {found.commit and f'({found.commit})'}"
    yield "data version", version.data_version
    yield from found.data.items()
    if found.videos is None:
        return
    told = origins.summary(found.videos)
    licences = ", ".join(f"{licence} {count}" for licence, count in told.licences.items())
    yield (
        "videos",
        f"{told.train} trained on, {told.holdout} held out, {told.hours:.2f} h together; licences: {licences}",
    )
    for row in found.videos.slice(0, _VIDEOS).to_pylist():
        yield "", f"{row['video_id']} {row['split']:8} {row['seconds']:8.1f} s  {row['path']}  {row['licence']}"
    if len(found.videos) > _VIDEOS:
        yield "", f"and {len(found.videos) - _VIDEOS} more: --json tells them all"
