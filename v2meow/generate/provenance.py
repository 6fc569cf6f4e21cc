"""Where a piece of music comes from, for a file beside it and for the comment inside it."""

import json
from importlib.metadata import version

SOFTWARE = f"v2meow {version('v2meow')}"

Provenance = dict[str, str | int]


def provenance(
    *, bundle: str, seed: int, video: str, prompt: str | None, model: str | None = None, data: str | None = None
) -> Provenance:
    """Enough to make the same music again: hashes are SHA-256, `model` and `data` what the registry calls them."""
    known = {"model": model, "data_version": data, "prompt": prompt}
    given = {key: value for key, value in known.items() if value is not None}
    return {"software": SOFTWARE, "generated": "by a machine", "bundle": bundle, "seed": seed, "video": video} | given


def comment(about: Provenance) -> str:
    """The provenance as one line, for the file's own metadata; without the prompt: files travel, words are private."""
    told = {key: value for key, value in about.items() if key != "prompt"}
    return json.dumps(told, ensure_ascii=False, separators=(",", ":"))
