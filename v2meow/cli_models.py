"""`v2meow models …`: what is registered, what holds which stage, where it came from, and moving it.

The rules are the registry's. Nothing heavy is imported before a command runs.
"""

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from v2meow import cli_models_show as tables
from v2meow import release
from v2meow.registry import REGISTRY_VARIABLE
from v2meow.release import MODEL_NAME

if TYPE_CHECKING:
    from v2meow.registry import Registry

app = typer.Typer(
    no_args_is_help=True, help="Register, promote, roll back, withdraw and retire models; see where they came from."
)

WorkspaceOption = Annotated[
    Path | None,
    typer.Option("--workspace", metavar="DIR", help="The workspace; default: the nearest one upwards from here."),
]
RegistryOption = Annotated[
    str | None,
    typer.Option(
        "--registry",
        metavar="DIR|s3://BUCKET/PREFIX",
        envvar=REGISTRY_VARIABLE,
        help="The registry; default: the workspace's own.",
    ),
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")]
VersionArgument = Annotated[str, typer.Argument(metavar="VERSION", help="Such as v3.")]
StageArgument = Annotated[str, typer.Argument(metavar="STAGE", help="staging or production.")]
ReasonOption = Annotated[str, typer.Option("--reason", "-m", metavar="WORDS", help="Why; it is kept.")]
ActorOption = Annotated[str | None, typer.Option("--as", metavar="WHO", help="Who does it; default: you, by login.")]
KeyOption = Annotated[
    str | None, typer.Option("--key", metavar="KEY", help="Idempotency key: the same request again changes nothing.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]


def chosen_workspace(folder: Path | None) -> Path:
    """The workspace that was named, else the nearest one. WorkspaceError when there is none."""
    from v2meow import workspace

    if folder is None:
        return workspace.find(Path.cwd())
    if not workspace.is_workspace(folder):
        raise workspace.WorkspaceError(f"{folder} is not a workspace: make one with `v2meow init {folder}`")
    return folder


def chosen_registry(folder: Path | None, location: str | None) -> "Registry":
    """The registry that was named, else that of the workspace."""
    return release.registry(None, location) if location else release.registry(chosen_workspace(folder))


@app.command("list")
def list_models(folder: WorkspaceOption = None, location: RegistryOption = None) -> None:
    """Every registered model: its versions, and which of them holds staging and production."""
    from rich.console import Console
    from rich.table import Table

    registry = chosen_registry(folder, location)
    table = Table("model", "versions", "staging", "production")
    for name in registry.models():
        state = registry.state(name)
        versions = (f"{version} (retired)" if version in state.retired else version for version in state.versions)
        table.add_row(name, ", ".join(versions), *(state.stages.get(s, "") for s in ("staging", "production")))
    if table.row_count:
        Console().print(table)
    else:
        print("nothing is registered yet: `v2meow models register` after a run whose gate passed")


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME[@STAGE|@VERSION]", help="A model, or one version of it.")],
    folder: WorkspaceOption = None,
    location: RegistryOption = None,
    verify: Annotated[bool, typer.Option(help="Compare the registered videos with what DVC has.")] = False,
    json: JsonOption = False,
) -> None:
    """A model's versions, or one version: its card, and where it came from, back to the videos."""
    from v2meow import lineage, workspace

    registry = chosen_registry(folder, location)
    if "@" not in name:
        tables.show_model(registry.state(name))
        return
    try:
        place = chosen_workspace(folder)
    except workspace.WorkspaceError:
        if folder is not None:
            raise
        place = None  # the registry was named, and what it holds is told
    found = lineage.trace(registry, registry.find(name), place, verify=verify)
    if json:
        _print_json(lineage.plain(found))
    else:
        tables.show_version(found)


@app.command()
def log(
    name: NameArgument, folder: WorkspaceOption = None, location: RegistryOption = None, json: JsonOption = False
) -> None:
    """Everything that ever happened to a model."""
    from rich.console import Console

    from v2meow import lineage

    history = chosen_registry(folder, location).state(name).history
    if json:
        _print_json([lineage.plain_event(event) for event in history])
    else:
        Console().print(tables.events_table(history))


@app.command()
def register(
    name: NameArgument = MODEL_NAME,
    folder: WorkspaceOption = None,
    location: RegistryOption = None,
    key: KeyOption = None,
) -> None:
    """Register the workspace's bundle under its passing verdict. Repeating it returns the same version."""
    version = release.register(chosen_workspace(folder), name, location=location, idempotency_key=key)
    print(f"{name}@{version.name}")


@app.command()
def attest(
    name: NameArgument,
    version: VersionArgument,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="smoke, which production needs, canary, or another.")],
    report: Annotated[
        Path, typer.Argument(metavar="FILE", help='JSON: {"passed": true, "bundle": HASH, "numbers": {…}}.')
    ],
    folder: WorkspaceOption = None,
    location: RegistryOption = None,
    actor: ActorOption = None,
    key: KeyOption = None,
) -> None:
    """Record what a trial of a version's bundle found, passed or not."""
    registry = chosen_registry(folder, location)
    event = registry.attest(name, version, kind, report, actor=actor or getpass.getuser(), idempotency_key=key)
    print(f"{name}@{version}: {event.evidence}")


@app.command()
def approve(
    name: NameArgument,
    version: VersionArgument,
    stage: StageArgument,
    text: Annotated[str, typer.Option("--text", "-m", metavar="WORDS", help="Why, in your words; they are kept.")],
    folder: WorkspaceOption = None,
    location: RegistryOption = None,
    actor: ActorOption = None,
    key: KeyOption = None,
) -> None:
    """Say that a version may take a stage, where its recipe asks for a person."""
    registry = chosen_registry(folder, location)
    registry.approve(name, version, stage, actor=actor or getpass.getuser(), text=text, idempotency_key=key)
    print(f"{name}@{version} is approved for {stage}")


@app.command()
def promote(
    name: NameArgument,
    version: VersionArgument,
    stage: StageArgument,
    folder: WorkspaceOption = None,
    location: RegistryOption = None,
    actor: ActorOption = None,
    key: KeyOption = None,
) -> None:
    """Give a stage to a version: staging first, then, after a smoke report that passed, production."""
    registry = chosen_registry(folder, location)
    registry.promote(name, version, stage, actor=actor or getpass.getuser(), idempotency_key=key)
    print(f"{name}@{stage} is {version}")


@app.command()
def rollback(
    name: NameArgument,
    stage: StageArgument,
    folder: WorkspaceOption = None,
    location: RegistryOption = None,
    actor: ActorOption = None,
    key: KeyOption = None,
) -> None:
    """Give a stage back to the version that held it before."""
    registry = chosen_registry(folder, location)
    version = registry.rollback(name, stage, actor=actor or getpass.getuser(), idempotency_key=key)
    print(f"{name}@{stage} is {version.name}")


@app.command()
def withdraw(
    name: NameArgument,
    stage: StageArgument,
    reason: ReasonOption,
    folder: WorkspaceOption = None,
    location: RegistryOption = None,
    actor: ActorOption = None,
    key: KeyOption = None,
) -> None:
    """Take a stage from the first version that ever held it: then none does. Later ones are rolled back."""
    registry = chosen_registry(folder, location)
    registry.withdraw(name, stage, actor=actor or getpass.getuser(), reason=reason, idempotency_key=key)
    print(f"no version is {name}@{stage} now")


@app.command()
def retire(
    name: NameArgument,
    version: VersionArgument,
    reason: ReasonOption,
    folder: WorkspaceOption = None,
    location: RegistryOption = None,
    actor: ActorOption = None,
    key: KeyOption = None,
) -> None:
    """Close all stages to a version for good. It must hold none."""
    registry = chosen_registry(folder, location)
    registry.retire(name, version, actor=actor or getpass.getuser(), reason=reason, idempotency_key=key)
    print(f"{name}@{version} is retired")


@app.command()
def project(
    name: NameArgument = MODEL_NAME,
    folder: WorkspaceOption = None,
    location: RegistryOption = None,
    push: Annotated[
        str | None, typer.Option(metavar="REMOTE", help="Also bring the tags there, such as origin.")
    ] = None,
) -> None:
    """Make the registry's log readable as GTO's tags in the workspace's git: gto show, dvc artifacts get."""
    change, missing = release.project(chosen_workspace(folder), name, location=location, remote=push)
    for reason in missing:
        print(f"no tag for {reason}")
    print(f"{change.made} tags made, {change.removed} removed, {change.kept} as they were")


def _print_json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=2, sort_keys=True, default=str))
