"""What can be known in seconds before a training on a cluster: all that cannot work is told at once."""

import platform
import uuid
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
import torch
from pyarrow.fs import FileSystem  # pyright: ignore[reportPrivateImportUsage]
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from v2meow.config import Recipe, StageName
from v2meow.data.dataset import read_examples
from v2meow.data.manifest import EXAMPLES
from v2meow.files import sha256
from v2meow.train.spikes import TrainingError
from v2meow.train.step import make_model

_PACKAGES = ("torch", "ray", "safetensors", "pyarrow")
_COPIES = 4  # of a weight in training, in float32: itself, its gradient and two moments
_ANSWER_S = 60.0


def refuse_what_cannot_work(
    stage: StageName, recipe: Recipe, workspace: Path, storage: FileSystem, folder: str
) -> None:
    """Ask every machine of the cluster. TrainingError with a line for each thing that is missing."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    parts = recipe.train.workers if recipe.train.strategy == "fsdp" else 1
    needed = _bytes_of_training(stage, recipe, workspace) / parts
    problems = [*_resources(recipe, nodes), *_memory(recipe, nodes, needed)]
    answers = {node["NodeManagerHostname"]: _ask(node, workspace, storage, folder) for node in nodes}
    here = _look(workspace, storage, folder)
    for host, asked in answers.items():
        problems += [f"{host}: {problem}" for problem in _differences(_answer(asked), here)]
    if problems:
        raise TrainingError(f"train {stage} cannot start:\n" + "\n".join(f"  {problem}" for problem in problems))


def _bytes_of_training(stage: StageName, recipe: Recipe, workspace: Path) -> float:
    """Weights and what training keeps of each; activations come on top."""
    examples = read_examples(recipe, workspace, "holdout")
    with torch.device("meta"):
        model = make_model(recipe, stage, examples, measured=False)
    config = recipe.stage(stage)
    copies = _COPIES + bool(config.ema) + config.keep_best  # the average, the best
    return 4.0 * copies * sum(parameter.numel() for parameter in model.parameters())


def _resources(recipe: Recipe, nodes: list[dict[str, Any]]) -> list[str]:
    """Whether the fewest workers find room, one beside the other."""
    asked = {"CPU": recipe.train.cpus, "GPU": recipe.train.gpus}
    room = sum(
        min(int(node["Resources"].get(name, 0) / count) for name, count in asked.items() if count) for node in nodes
    )
    if room >= recipe.train.min_workers:
        return []
    told = " and ".join(f"{count:g} {name}" for name, count in asked.items() if count)
    return [f"train.min_workers: {recipe.train.min_workers} with {told} each, and the cluster has room for {room}"]


def _memory(recipe: Recipe, nodes: list[dict[str, Any]], needed: float) -> list[str]:
    if recipe.train.gpus:
        return []  # how much a GPU has, its worker alone can tell
    most = max((node["Resources"].get("memory", 0.0) for node in nodes), default=0.0)
    if needed <= most:
        return []
    return [f"a worker needs {needed / 2**30:.1f} GiB for weights and moments, and no machine has {most / 2**30:.1f}"]


def _ask(node: dict[str, Any], *where: Any) -> Any:
    affinity = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    return ray.remote(_look).options(num_cpus=0, scheduling_strategy=affinity).remote(*where)


def _answer(asked: Any) -> dict[str, str]:
    try:
        return ray.get(asked, timeout=_ANSWER_S)
    except Exception as error:
        return {"error": f"does not answer: {str(error).splitlines()[0]}"}


def _look(workspace: Path, storage: FileSystem, folder: str) -> dict[str, str]:
    """What a machine has, by name; "error" when it cannot read examples or write checkpoints."""
    found = {name: version(name) for name in _PACKAGES} | {"Python": platform.python_version()}
    try:
        files = sorted((workspace / EXAMPLES).glob("*.parquet"))
        found["examples"] = ",".join(sha256(file)[:12] for file in files) or "none"
        place = f"{folder}/.written-{uuid.uuid4().hex}"
        with storage.open_output_stream(place) as stream:
            stream.write(b"1")
        storage.delete_file(place)
    except OSError as error:
        found["error"] = str(error)
    return found


def _differences(found: dict[str, str], here: dict[str, str]) -> list[str]:
    if "error" in found:
        return [found["error"]]
    return [f"{name} is {found[name]}, here {here[name]}" for name in here if found.get(name) != here[name]]
