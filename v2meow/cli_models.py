"""`v2meow models …`: what is registered, what holds which stage, and moving it.

The rules are the registry's. Nothing heavy is imported before a command runs.
"""

import getpass
from pathlib import Path
from typing import Annotated

import typer

from v2meow import release
from v2meow.release import MODEL_NAME

app = typer.Typer(no_args_is_help=True, help="Register, promote and roll back models.")

WorkspaceOption = Annotated[
    Path | None,
    typer.Option("--workspace", metavar="DIR", help="The workspace; default: the nearest one upwards from here."),
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")]
VersionArgument = Annotated[str, typer.Argument(metavar="VERSION", help="Such as v3.")]
StageArgument = Annotated[str, typer.Argument(metavar="STAGE", help="staging or production.")]


def chosen_workspace(folder: Path | None) -> Path:
    """The workspace that was named, else the nearest one. WorkspaceError when there is none."""
    from v2meow import workspace

    if folder is None:
        return workspace.find(Path.cwd())
    if not workspace.is_workspace(folder):
        raise workspace.WorkspaceError(f"{folder} is not a workspace: make one with `v2meow init {folder}`")
    return folder


@app.command("list")
def list_models(folder: WorkspaceOption = None) -> None:
    """Every registered model: its versions, and which of them holds staging and production."""
    from rich.console import Console
    from rich.table import Table

    registry = release.registry(chosen_workspace(folder))
    table = Table("model", "versions", "staging", "production")
    for name in registry.models():
        state = registry.state(name)
        table.add_row(name, ", ".join(state.versions), *(state.stages.get(s, "") for s in ("staging", "production")))
    if table.row_count:
        Console().print(table)
    else:
        print("nothing is registered yet: `v2meow models register` after a run whose gate passed")


@app.command()
def show(name: NameArgument, folder: WorkspaceOption = None) -> None:
    """A model's versions with where they came from, and everything that ever happened to it."""
    from rich.console import Console
    from rich.table import Table

    state = release.registry(chosen_workspace(folder)).state(name)
    versions = Table("version", "bundle", "data", "git revision", "gate report", title="Versions")
    for version in state.versions.values():
        hashes = (version.bundle, version.data_version, version.git_revision, version.gate_report)
        versions.add_row(version.name, *(digest[:12] for digest in hashes))
    history = Table("", "time", "event", "version", "stage", "by", "because", title="History")
    for event in state.history:
        row = (event.time, event.kind, event.version.name, event.stage or "", event.actor, event.evidence)
        history.add_row(str(event.number), *row)
    Console().print(versions, history)


@app.command()
def register(name: NameArgument = MODEL_NAME, folder: WorkspaceOption = None) -> None:
    """Register the workspace's bundle under its passing verdict. Repeating it returns the same version."""
    version = release.register(chosen_workspace(folder), name)
    print(f"{name}@{version.name}")


@app.command()
def promote(name: NameArgument, version: VersionArgument, stage: StageArgument, folder: WorkspaceOption = None) -> None:
    """Give a stage to a version: staging first, then production."""
    release.registry(chosen_workspace(folder)).promote(name, version, stage, actor=getpass.getuser())
    print(f"{name}@{stage} is {version}")


@app.command()
def rollback(name: NameArgument, stage: StageArgument, folder: WorkspaceOption = None) -> None:
    """Give a stage back to the version that held it before."""
    version = release.registry(chosen_workspace(folder)).rollback(name, stage, actor=getpass.getuser())
    print(f"{name}@{stage} is {version.name}")
