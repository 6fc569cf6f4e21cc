"""Pointers to a version: small files of a workspace that name one by the hash of its bundle, for git and DVC to see.

A step that depends on what the registry says depends on such a file, and fetches what it names from there.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from v2meow.files import read_json
from v2meow.registry.registry import Registry
from v2meow.registry.state import RegistryError

REGISTRY_VARIABLE = "V2MEOW_REGISTRY"  # a folder or s3://BUCKET/PREFIX, in the place of a workspace's own


@dataclass(frozen=True, kw_only=True)
class Pointer:
    """A model, its version such as v3, and the hash of its bundle."""

    model: str
    version: str
    bundle: str


def read_pointer(path: Path) -> Pointer | None:
    """What the file names; None where it names nothing, or is not there."""
    found = read_json(path) if path.is_file() else {}
    return Pointer(**found) if found.get("model") else None


def fetch(workspace: Path, named: Pointer) -> Path:
    """The folder of the named version's bundle. RegistryError when the registry gives another one."""
    registry = Registry(os.environ.get(REGISTRY_VARIABLE) or workspace / "registry")
    name = f"{named.model}@{named.version}"
    if registry.find(name).bundle != named.bundle:
        raise RegistryError(f"{workspace}: {name} is another bundle in {registry.location}: run `v2meow run`")
    return registry.resolve(name)
