"""The graph of steps, as DVC derives it from dvc.yaml, and which of them are out of date.

The only home of DVC's Python interface besides `init`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from v2meow.workspace.errors import WorkspaceError


def graph(workspace: Path) -> dict[str, tuple[str, ...]]:
    """Every step with the steps that it depends on, both in the order of dvc.yaml."""
    with _repo(workspace) as repo:
        return _graph(repo)


def meta(workspace: Path) -> dict[str, dict[str, Any]]:
    """What dvc.yaml says of each step to whoever drives it: `retries`, `timeout_s`, `limit`."""
    with _repo(workspace) as repo:
        return {stage.name: dict(stage.meta or {}) for stage in repo.index.stages}


def stages(workspace: Path) -> list[str]:
    """Names of the steps, each after everything that it depends on."""
    return _running_order(graph(workspace))


def stale(workspace: Path, *names: str) -> list[str]:
    """Those of `names` (without any: of all steps) that DVC would run now, in the order of `stages`.

    A step is stale when its inputs, its part of the recipe or its outputs differ from dvc.lock. What
    depends on a stale step may turn out stale, or not, once that step has run.
    """
    pipeline = workspace.resolve() / "dvc.yaml"  # DVC reads a bare step name relative to the current folder
    with _repo(workspace) as repo:
        order = [name for name in _running_order(_graph(repo)) if not names or name in names]
        changes = repo.status(targets=[f"{pipeline}:{name}" for name in order])
    changed = {address.rpartition(":")[2] for address in changes}
    return [name for name in order if name in changed]


def _graph(repo: Any) -> dict[str, tuple[str, ...]]:
    edges = repo.index.graph
    order = [stage.name for stage in repo.index.stages]
    needs = {stage.name: {needed.name for needed in edges.successors(stage)} for stage in edges}
    return {name: tuple(other for other in order if other in needs[name]) for name in order}


def _running_order(needs: dict[str, tuple[str, ...]]) -> list[str]:
    return list(TopologicalSorter(needs).static_order())


@contextmanager
def _repo(workspace: Path) -> Iterator[Any]:
    """DVC's view of the workspace as it is now; its complaints become one line."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(workspace)) as repo:
            yield repo
    except DvcException as error:
        raise WorkspaceError(f"{workspace}: {' '.join(str(error).split())}") from error
