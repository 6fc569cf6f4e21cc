"""`v2meow data …`: what is in the catalogue, where it comes from, what changed, what is held back, what must go.

The rules are those of `v2meow.data`. Nothing heavy is imported before a command runs.
"""

import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from v2meow.cli_models import JsonOption, WorkspaceOption, chosen_workspace

if TYPE_CHECKING:
    import pyarrow as pa

    from v2meow.data.diff import Diff

app = typer.Typer(no_args_is_help=True, help="Bring in videos; see what is in the catalogue; forget a video.")
_SHOWN = 20  # rows that are told one by one
_BAR = 40  # characters


@app.command()
def pull(
    source: Annotated[
        str | None, typer.Argument(metavar="[SOURCE]", help="DIR or s3://BUCKET/PREFIX; default: data.source.")
    ] = None,
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Believe a source that lists nothing any more.")
    ] = False,
    folder: WorkspaceOption = None,
) -> None:
    """Make data/raw hold what a source holds: new and changed videos come, those that left it go."""
    from v2meow import workspace
    from v2meow.config import load_recipe
    from v2meow.data import pull as pulling
    from v2meow.data.source import open_source

    place = chosen_workspace(folder)
    address = source or load_recipe(place / "recipe.yaml").data.source
    with workspace.owned(place):
        pulled = pulling.pull(place, open_source(address), allow_empty=allow_empty)
    for name, value in vars(pulled).items():
        if name != "skipped":
            print(f"{name.replace('_', ' ')}: {value}")
    for key, reason in list(pulled.skipped.items())[:_SHOWN]:
        print(f"skipped {key}: {reason}")
    if len(pulled.skipped) > _SHOWN:
        print(f"… and {len(pulled.skipped) - _SHOWN} more were skipped")


@app.command()
def diff(
    before: Annotated[str, typer.Argument(metavar="[A]", help="A revision: commit, branch, tag, HEAD~1.")] = "HEAD",
    after: Annotated[
        str | None, typer.Argument(metavar="[B]", help="Another; default: the workspace as it is now.")
    ] = None,
    folder: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """What changed in the catalogue between two versions: videos, hours, genres, splits, and how figures moved."""
    from v2meow.data.diff import diff as compare

    place = chosen_workspace(folder)
    found = compare(_clips_at(place, before), _clips_at(place, after))
    if json:
        _print_json(found.plain())
    else:
        _show_diff(found)


@app.command()
def stats(
    page: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Also write a page.")] = None,
    folder: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """The catalogue in figures: hours by split and genre; lengths, loudness, frame rates, tempo."""
    from v2meow.data import chart
    from v2meow.data.stats import stats as count

    found = count(_clips_at(chosen_workspace(folder), None))
    if page is not None:
        chart.write_page(page, found)
    if json:
        _print_json(found.plain())
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    console.print(f"{found.videos} videos, {found.clips} clips, {found.hours:.2f} hours")
    for title, bars in chart.charts(found).items():
        table = Table(title=title, box=None, show_header=False, title_justify="left", title_style="bold")
        most = max((value for _, value in bars), default=0.0)
        for label, value in bars:
            table.add_row(escape(label), chart.bar(value, most, _BAR), chart.number(value))
        if bars:
            console.print(table)


@app.command()
def quarantine(folder: WorkspaceOption = None, json: JsonOption = False) -> None:
    """The clips that `validate` keeps out of training, and why."""
    from v2meow.data import quarantine as table

    held = table.read(chosen_workspace(folder))
    if json:
        _print_json([vars(row) for row in held])
        return
    for rule, count in Counter(row.rule for row in held).most_common():
        print(f"{count} clips are against: {rule}")
    for row in held[:_SHOWN]:
        print(f"  {row.clip_id}: {row.reason}")
    if len(held) > _SHOWN:
        print(f"  … and {len(held) - _SHOWN} more: --json tells all")
    if not held:
        print("no clip is in quarantine")


@app.command()
def forget(
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="Its path, its id (16 hex digits), or its SHA-256.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    folder: WorkspaceOption = None,
) -> None:
    """Remove a video for good: its file, and its features and music in every version that can be reached.

    It never comes in again. The examples of earlier versions that had it cannot be restored any more. Says which models
    learnt from it.
    """
    from v2meow import release, workspace
    from v2meow.data import forget as forgetting

    place = chosen_workspace(folder)
    digest = forgetting.identify(place, video)
    if not yes:
        typer.confirm(f"Forget the content {digest} in every version, for good?", abort=True)
    with workspace.owned(place):
        done = forgetting.forget(place, digest)
    trained, unknown = release.versions_trained_on(release.registry(place), digest)
    print(f"forgotten: {digest}")
    for file in done.files:
        print(f"  removed {file}")
    print(f"  removed {done.rows} rows of clips and examples, {done.objects} objects of DVC")
    todo = [f"`v2meow run`, then promote: {version.model}@{version.name} learnt from it" for version in trained]
    todo += [
        f"look whether {version.model}@{version.name} learnt from it: its videos are not known" for version in unknown
    ]
    todo += [
        f"remove it from the remote {address}, which cannot be looked through from here" for address in done.remotes
    ]
    todo += [f"remove its row, if it has one, from {table}" for table in done.tables]
    todo.append("remove it where it came from, and from clones of this workspace")
    print("left to do:")
    for line in todo:
        print(f"  {line}")


def _clips_at(place: Path, revision: str | None) -> "pa.Table":
    """The clips table as a revision of the workspace had it, as it is now without one."""
    from v2meow import workspace
    from v2meow.data.diff import read_table
    from v2meow.data.manifest import CLIPS, read_clips_table

    if revision is None:
        return read_clips_table(place)
    commit = workspace.revision_of(place, revision)
    with tempfile.TemporaryDirectory() as folder:
        workspace.fetch_at(place, commit, CLIPS.parent.as_posix(), Path(folder, "clips"))
        return read_table(Path(folder, "clips", CLIPS.name))


def _show_diff(found: "Diff") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    for what in ("added", "removed", "replaced", "split_changed"):
        paths = getattr(found, what)
        print(f"{what.replace('_', ' ')}: {len(paths)}")
        for path in paths[:_SHOWN]:
            print(f"  {path}")
    print(f"renamed: {len(found.renamed)}")
    for old, new in found.renamed[:_SHOWN]:
        print(f"  {old} → {new}")
    hours = Table("hours", "before", "after")
    for attribute in ("hours_by_split", "hours_by_genre"):
        before, after = getattr(found.before, attribute), getattr(found.after, attribute)
        for name in [*after, *(name for name in before if name not in after)][:_SHOWN]:
            hours.add_row(escape(name), *(f"{sums.get(name, 0.0):.2f}" for sums in (before, after)))
    hours.add_row("all", f"{found.before.hours:.2f}", f"{found.after.hours:.2f}")
    moved = Table("figure", "before", "after", "index", "limit", "widest gap", "")
    for name, column in found.columns.items():
        if one := column.drift:
            cells = (f"{value:.3g}" for value in (one.before, one.after, one.psi, one.limit, column.ks))
            moved.add_row(name, *cells, "shifted" if one.shifted else "")
    Console().print(hours)
    if moved.row_count:
        Console().print(moved)


def _print_json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=2, sort_keys=True, default=str))
