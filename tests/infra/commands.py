"""Command lines of `v2meow`, parsed by the command itself."""

from typing import Any

from typer.main import get_command

from v2meow.cli import app


def parses(words: list[str]) -> None:
    """Parse a `v2meow …` command, and run nothing. An error for what the command does not have."""
    program, *rest = words
    assert program == "v2meow"
    command: Any = get_command(app)
    while hasattr(command, "commands"):
        assert rest[0] in command.commands, f"No such command: {rest[0]}"
        command, rest = command.commands[rest[0]], rest[1:]
    command.make_context(program, rest)
