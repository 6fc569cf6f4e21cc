"""Where a killed training goes on from: its state on disk, bound to what it was computed from.

A checkpoint is a folder of `shard-…safetensors`, in which each worker wrote its part of the tensors, by
torch.distributed.checkpoint, and of a `worker-00000.json` for each worker: format, fingerprint, step, how many workers
there were, the SHA-256 of its shards, and, from the first, whatever the step keeps besides. Any number of workers can
go on from it. Runs with torch alone.
"""

import hashlib
import json
import logging
import shutil
import sys
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from v2meow.config import Recipe, StageName
from v2meow.data.manifest import EXAMPLES
from v2meow.files import atomic_folder, read_json, sha256, write_json
from v2meow.train.state import TrainState
from v2meow.train.workers import Workers

CHECKPOINTS = Path("checkpoints")
_FORMAT = 2
_NEEDED = {"format", "fingerprint", "step", "workers", "files", "besides"}
# Of the recipe, what a stage's training depends on; the same as in dvc.yaml.
SECTIONS = ("seed", "data", "visual", "semantic_ids", "codec", "joint")
_CODE = ("config", "data", "model", "train")  # of this project, what decides the weights
logging.getLogger("torch.distributed.checkpoint").setLevel(logging.ERROR)


class CheckpointError(ValueError):
    """A checkpoint that training cannot go on from; the message says why in one line."""


class Checkpoints:
    """The checkpoints of one stage's training in `folder`, for work that `fingerprint` names; the newest stays.

    They are written while training goes on, from a copy. A checkpoint appears whole, and only then the one before it
    goes.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder, self._fingerprint = folder, fingerprint
        self._writer, self._written = ThreadPoolExecutor(1, "checkpoint"), Future[None]()
        self._written.set_result(None)

    def save(self, state: TrainState, besides: Any) -> None:
        """Begin to save `state` and the JSON value `besides`.

        Waits for the one before, and raises its OSError, which names the folder, when the disk was full.
        """
        self.finish()
        self._written = self._writer.submit(self._write, copied(state), state.step, json.loads(json.dumps(besides)))

    def finish(self) -> None:
        """Wait until the last one is on disk."""
        self._written.result()

    def _write(self, tensors: dict[str, Tensor], step: int, besides: Any) -> None:
        folder = self._folder / f"step-{step:08d}"
        with atomic_folder(folder) as temporary:
            write(temporary, tensors, self._fingerprint, step, besides, Workers())
        for other in self._folder.iterdir():
            if other != folder:  # also what a process that was killed here left half written
                shutil.rmtree(other, ignore_errors=True)

    def resume(self, state: TrainState) -> Any:
        """See `read_newest`."""
        found = sorted(self._folder.glob("step-*"), reverse=True)
        return read_newest(map(nullcontext, found), state, self._fingerprint, Workers())

    def discard(self) -> None:
        """Remove all of them."""
        self.finish()
        shutil.rmtree(self._folder, ignore_errors=True)


def copied(state: TrainState) -> dict[str, Tensor]:
    """This worker's tensors on the CPU as they are now: training goes on and changes its own."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.tensors().items()}


def write(
    folder: Path,
    tensors: dict[str, Tensor],
    fingerprint: str,
    step: int,
    besides: Any,
    workers: Workers,
    group: ProcessGroup | None = None,
) -> None:
    """Write this worker's part of a checkpoint into `folder`, which may be its own. All workers must call it.

    They agree on who writes what through `group`: beside training, it must be another than that of gradients.
    """
    before = set(folder.iterdir())
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        with _alone_quietly():
            save(
                {name: tensor.contiguous() for name, tensor in tensors.items()},
                storage_writer=writer,
                process_group=group,
                no_dist=workers.size == 1,
            )
    except CheckpointException as error:
        raise _first(error) from None
    own = [file for file in folder.iterdir() if file not in before and file.suffix == ".safetensors"]
    if workers.size > 1:  # in one folder, others' files are there, too
        own = [file for file in own if file.name.startswith(f"shard-{workers.rank + 1:05d}-")]
    told = {"format": _FORMAT, "fingerprint": fingerprint, "step": step, "workers": workers.size}
    told |= {"files": {file.name: sha256(file) for file in own}, "besides": besides if workers.rank == 0 else None}
    write_json(folder / f"worker-{workers.rank:05d}.json", told)


def read(folder: Path, state: TrainState, fingerprint: str) -> Any:
    """Bring `state` to the checkpoint in `folder` and return what was saved besides. All workers must call it.

    CheckpointError when it is damaged or of other work; `state` is then as it was.
    """
    _check(folder, fingerprint)
    return _load(folder, state)


def read_newest(
    found: Iterable[AbstractContextManager[Path]], state: TrainState, fingerprint: str, workers: Workers
) -> Any:
    """Bring `state` to the first of these checkpoints, the newest, that all workers can read, and return as `read`.

    All workers must call it, and go the same way. One whose copy alone is damaged would else start afresh, while the
    others wait for it. None where there are no checkpoints; CheckpointError when all are damaged or of other work,
    with what is wrong with the first; `state` is then as it was.
    """
    refused: list[str] = []
    for place in found:
        with ExitStack() as stack:
            folder, reason = Path(), None
            try:
                folder = stack.enter_context(place)
                _check(folder, fingerprint)
            except (CheckpointError, OSError) as error:
                reason = str(error)
            reasons = workers.all_of(reason)
            if reasons:
                refused += reasons[:1]
                continue
            for line in refused:
                print(f"train {state.model.spec.name} passes over a checkpoint: {line}", file=sys.stderr)
            return _load(folder, state)
    if refused:
        raise CheckpointError(refused[0])
    return None


def _check(folder: Path, fingerprint: str) -> None:
    """CheckpointError when the checkpoint, as far as this worker sees it, is damaged or of other work."""
    for number in range(_told(folder, 0)["workers"]):
        told = _told(folder, number)
        if told["fingerprint"] != fingerprint:
            raise CheckpointError(f"{folder} belongs to another recipe, other examples, other code or another torch")
        for name, expected in told["files"].items():
            if not (folder / name).is_file() or sha256(folder / name) != expected:
                raise CheckpointError(f"{folder / name} is damaged")


def _load(folder: Path, state: TrainState) -> Any:
    """Bring `state` to the checkpoint in `folder`, which is whole, and return what was saved besides."""
    first = _told(folder, 0)
    state.ready()
    tensors = state.tensors()
    try:
        with _alone_quietly():
            load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=Workers().size == 1)
    except CheckpointException as error:
        raise CheckpointError(f"{folder} does not hold this model: {_first(error)}") from error
    state.step = first["step"]
    return first["besides"]


@contextmanager
def _alone_quietly() -> Iterator[None]:
    """Without the warning that there is one process only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield


def _first(error: CheckpointException) -> BaseException:
    """What the first worker that failed met."""
    return next(iter(error.failures.values()))[0]


def _told(folder: Path, number: int) -> dict[str, Any]:
    path = folder / f"worker-{number:05d}.json"
    try:
        told = read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged") from error
    if not isinstance(told, dict) or _NEEDED - told.keys():
        raise CheckpointError(f"{path} is damaged")
    if told["format"] != _FORMAT:
        raise CheckpointError(f"{folder} was written by another version")
    return told


def fingerprint(recipe: Recipe, stage: StageName, workspace: Path, device: torch.device) -> str:
    """SHA-256 of everything that decides the weights after a step."""
    sections = asdict(recipe)
    decisive = {
        "recipe": {name: sections[name] for name in SECTIONS},
        "stages": {name: value for name, value in sections["stages"].items() if name in (stage, *_shared(sections))},
        "examples": {file.name: sha256(file) for file in sorted((workspace / EXAMPLES).glob("*.parquet"))},
        "code": _code(),
        "torch": torch.__version__,
        "device": device.type,
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _shared(sections: dict[str, Any]) -> list[str]:
    """Keys of `stages` that are no stage, such as the number of coarse levels."""
    return [name for name, value in sections["stages"].items() if not isinstance(value, dict)]


def _code() -> dict[str, str]:
    package = Path(__file__).parents[1]
    files = sorted(file for part in _CODE for file in (package / part).glob("*.py"))
    return {str(file.relative_to(package)): sha256(file) for file in files}
