"""`v2meow inspect`: where a piece of music comes from, by its own words and by its mark."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def inspect(
    file: Annotated[Path, typer.Argument(help="Sound or a video, as it was made or as it came back.")],
    watermark: Annotated[
        Path | None, typer.Option(metavar="SECRET", help="Also look for the mark that the secret in this file makes.")
    ] = None,
) -> None:
    """Say where a file's music comes from: by what is written inside it, which anybody can change, and by its mark.

    A mark outlives other containers, compression and cuts; five seconds are enough.
    """
    from v2meow import release
    from v2meow.config import load_recipe
    from v2meow.media import Reader

    with Reader(load_recipe(release.SHIPPED / "nano" / "recipe.yaml").media) as reader:
        for name, value in _told(reader.comment(file)).items():
            print(f"{name}: {value}")
        if watermark is not None:
            from v2meow.generate.watermark import RATE, find, read_secret

            mark = find(reader.waveform(file, RATE), read_secret(watermark))
            found = (
                mark and f"bundle {mark.payload:08x}…, where there is none by chance in fewer than {mark.chance:.0e}"
            )
            print(f"watermark: {found or 'none of this secret'}")


def _told(comment: str) -> dict[str, Any]:
    """What is written inside a file, if it is of our writing."""
    try:
        told = json.loads(comment)
    except ValueError:
        told = None
    return told if isinstance(told, dict) and "bundle" in told else {"origin": "nothing is written inside"}
