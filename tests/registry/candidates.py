"""Bundles to register, with the files that a gate and a trial would write about them; and processes that do it."""

import json
import subprocess
from pathlib import Path
from typing import Any

from v2meow import bundle
from v2meow.registry import Event, Registry, Version

MODEL = "v2meow"

# Each child announces itself and then waits for its standard input to close: all start at once.
CHILD = """
import os, signal, sys
from pathlib import Path
from v2meow.registry import ConflictError, Registry

registry = Registry(sys.argv[1])

def register(folder):
    bundle, verdict = Path(folder, "bundle"), Path(folder, "verdict.json")
    return registry.register("v2meow", bundle, verdict, data_version="d", git_revision="g", actor="a").name

def die_at(function):
    setattr(os, function, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))

print("ready", flush=True)
sys.stdin.read()
"""


def candidate(folder: Path, content: str, **verdict) -> Path:
    """A folder with a bundle that holds `content` and the verdict on it, changed by `verdict`."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(content)
    digest = bundle.assemble({"recipe.yaml": folder / "recipe.yaml"}, folder / "bundle")
    found = {"passed": True, "bundle": digest, "recipe": "nano", "criteria": [{"metric": "loss", "value": 0.1}]}
    (folder / "verdict.json").write_text(json.dumps(found | verdict))
    return folder


def register(registry: Registry, folder: Path, **options) -> Version:
    facts: dict[str, Any] = {"data_version": "d1", "git_revision": "g1", "actor": "ada"} | options
    return registry.register(MODEL, folder / "bundle", folder / "verdict.json", **facts)


def register_many(registry: Registry, folder: Path, count: int, **options) -> list[str]:
    return [register(registry, candidate(folder / str(i), f"content {i}"), **options).name for i in range(count)]


def attest(registry: Registry, folder: Path, version: str, kind: str = "smoke", **report) -> Event:
    """A report that passed on the version's bundle, changed by `report`."""
    found = {"passed": True, "bundle": registry.state(MODEL).versions[version].bundle, "numbers": {"errors": 0}}
    (folder / f"{kind}.json").write_text(json.dumps(found | report))
    return registry.attest(MODEL, version, kind, folder / f"{kind}.json", actor="probe")


def log_files(registry: Registry) -> list[Path]:
    return sorted(path for path in (registry.root / MODEL / "log").iterdir() if not path.name.startswith("."))


def release(children: list[subprocess.Popen]) -> None:
    """Let all children go at the same moment, once each has finished its imports."""
    for child in children:
        assert child.stdout and child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin
        child.stdin.close()
        child.stdin = None  # or `communicate` would flush it


def run_together(children: list[subprocess.Popen]) -> list[str]:
    """Release the children; return what each printed."""
    release(children)
    return [child.communicate(timeout=120)[0].strip() for child in children]
