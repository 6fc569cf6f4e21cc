"""`v2meow up` and `v2meow flows …`: the flows of a workspace on this machine, and asking for a run of one."""

import os
from pathlib import Path
from typing import Annotated

import typer

from v2meow.cli_models import WorkspaceOption, chosen_workspace

flows_app = typer.Typer(no_args_is_help=True, help="Deploy the flows to a Prefect server, and ask for their runs.")
_SERVER = "http://127.0.0.1:4200/api"
WebhookOption = Annotated[
    str, typer.Option(metavar="URL", help="Who is told, by a POST of JSON, of runs that fail; default: nobody.")
]
GpusOption = Annotated[int, typer.Option(min=1, help="How many steps that need a GPU run at once.")]


def up(
    folder: WorkspaceOption = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of Prefect's page and API.")] = 4200,
    database: Annotated[
        str,
        typer.Option(metavar="URL", envvar="V2MEOW_PREFECT_DATABASE", help="PostgreSQL; default: SQLite, here."),
    ] = "",
    webhook: WebhookOption = "",
    gpus: GpusOption = 1,
) -> None:
    """Start Prefect's server, a worker and the flows of a workspace. Ctrl-C ends it all.

    The recipe says when: retrain.cron, retrain.poll_minutes; and where models are tried: promotion.endpoint.
    """
    from flows.up import run

    run(chosen_workspace(folder), port, database, webhook, gpus)


@flows_app.command()
def deploy(
    folder: WorkspaceOption = None,
    server: Annotated[str, typer.Option(envvar="PREFECT_API_URL", help="The server's API.")] = _SERVER,
    webhook: WebhookOption = "",
    gpus: GpusOption = 1,
) -> None:
    """Tell a Prefect server of the flows of a workspace; repeating it brings changed schedules."""
    os.environ["PREFECT_API_URL"] = server
    from flows.deployments import deploy as make

    for name in make(chosen_workspace(folder), gpus=gpus, webhook=webhook):
        print(name)


@flows_app.command()
def run(
    flow: Annotated[str, typer.Argument(help="retrain, ingest, promote or rollback.")],
    server: Annotated[str, typer.Option(envvar="PREFECT_API_URL", help="The server's API.")] = _SERVER,
    wait: Annotated[bool, typer.Option("--wait", help="Until it has ended; exit status 1 if it failed.")] = False,
) -> None:
    """Ask for a run of a flow."""
    os.environ["PREFECT_API_URL"] = server
    from flows.asking import ask

    ended = ask(flow, wait=wait)
    print(ended.told)
    raise typer.Exit(0 if ended.good else 1)


@flows_app.command()
def story(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")] = Path("v2meow-story"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of Prefect's page and API.")] = 4200,
) -> None:
    """The life of a model in production, to watch: new videos, retraining, canary, production, and two bad models."""
    from flows.story import tell

    tell(out, port)
