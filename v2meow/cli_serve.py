"""`v2meow serve` and `v2meow keys …`: the generation service on this machine, and who may use it."""

from pathlib import Path
from typing import Annotated

import typer

from v2meow import release
from v2meow.cli_models import WorkspaceOption, chosen_workspace

keys_app = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys; the file keeps only their hashes.")
FileOption = Annotated[Path, typer.Option("--file", metavar="FILE", help="The file of keys.")]
_KEYS = Path("keys.json")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="DIR|NAME@STAGE|nano", help="What to serve; several share the requests alike."),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen at; 0.0.0.0 for all of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    keys: Annotated[
        Path | None, typer.Option(metavar="FILE", help="API keys (v2meow keys); needed where others reach the service.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="All settings, as YAML: those of `args` in a Serve config file.")
    ] = None,
    folder: WorkspaceOption = None,
) -> None:
    """Start the service here: a page for people, an HTTP API, metrics. Ctrl-C ends it.

    NAME@STAGE is followed: when another version takes the stage, it is loaded aside, tried, and then serves.
    """
    from serving.run import run
    from serving.start import settings_for

    asks_workspace = any("@" in name for name in model or []) and not release.has_registry(None)
    place = chosen_workspace(folder) if folder or asks_workspace else None
    run(settings_for(config, model, keys, place, open_to_all=host in _LOOPBACK), host, port)


@keys_app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is; logs and limits go by it.")],
    file: FileOption = _KEYS,
    per_minute: Annotated[int, typer.Option(min=1, help="Requests for music a minute.")] = 60,
    concurrent: Annotated[int, typer.Option(min=1, help="Generations at once.")] = 4,
    days: Annotated[float | None, typer.Option(min=0.0, help="Valid for so long; default: until revoked.")] = None,
) -> None:
    """Make a key and print it, this once."""
    from serving import keys

    print(keys.create(file, name, per_minute=per_minute, concurrent=concurrent, days=days))


@keys_app.command("list")
def list_keys(file: FileOption = _KEYS) -> None:
    """Names and limits of the keys."""
    from datetime import UTC, datetime

    from serving import keys

    for key in keys.read(file):
        until = "no end" if key.expires is None else f"until {datetime.fromtimestamp(key.expires, UTC):%Y-%m-%d %H:%M}"
        print(f"{key.name}: {key.per_minute} a minute, {key.concurrent} at once, {until}")


@keys_app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Whose key to take away.")],
    file: FileOption = _KEYS,
) -> None:
    """Take a key away; running services refuse it at once."""
    from serving import keys

    keys.revoke(file, name)
    print(f"{name}: revoked")
