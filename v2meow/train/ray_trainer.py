"""The training loop under Ray Train: the same steps in several processes, which are replaced when they die.

All machines of the cluster see the workspace under the same path. A run's name holds the fingerprint of what it trains
(code, data, recipe): started again, a run goes on from the last checkpoint that Ray has committed, never from one that
merely lies in the storage, and a changed recipe never takes over an older run's steps.
"""

import logging
import os
import shutil
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pyarrow.fs import FileSystem, LocalFileSystem, S3FileSystem  # pyright: ignore[reportPrivateImportUsage]

from v2meow.cluster import connected, own_cause
from v2meow.config import Recipe, StageName, TrainConfig
from v2meow.files import atomic_folder, read_json, write_json
from v2meow.model.io import save_stage
from v2meow.model.lm import TokenLM
from v2meow.train import checkpoint
from v2meow.train.ray_board import Obituaries, new_board, shown, told
from v2meow.train.ray_check import refuse_what_cannot_work
from v2meow.train.state import TrainState
from v2meow.train.step import SPEED, train_stage
from v2meow.train.workers import Workers, whole

os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "60")  # then fewer workers go on, where that is allowed
import ray.train
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    CheckpointUploadMode,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
)
from ray.train.torch import TorchTrainer, get_device
from ray.train.v2.api.exceptions import TrainingFailedError

_PATIENCE_S = 40  # with a silent storage, three times over: another number of tries does not travel to the workers
_MODEL, _SPEED = "model", "speed.json"  # in a run's last checkpoint


def run(stage: StageName, recipe: Recipe, workspace: Path) -> dict[str, Any]:
    """Train one stage by the recipe's workers and write models/STAGE, as `step.run` does.

    TrainingError listing all that cannot work, before a worker is started; the error that a worker met, when it has
    been met more than `max_failures` times.
    """
    device = torch.device("cuda" if recipe.train.gpus else "cpu")
    work = _Work(stage, recipe, workspace.resolve(), checkpoint.fingerprint(recipe, stage, workspace, device))
    with connected():
        storage, folder = _storage(recipe.train, work.workspace)
        refuse_what_cannot_work(stage, recipe, work.workspace, storage, folder)
        board = new_board()
        try:
            with shown(board):
                result = _trainer(work, storage, folder, board).fit()
        except TrainingFailedError as error:
            raise own_cause(error) from None
        assert result.checkpoint is not None  # the model comes with it
        with result.checkpoint.as_directory() as last:
            metrics = _take_over(Path(last), work)
        storage.delete_dir(f"{folder}/{work.name}")
    return metrics


@dataclass(frozen=True)
class _Work:
    """What a worker has to do; it travels to where workers are."""

    stage: StageName
    recipe: Recipe
    workspace: Path
    fingerprint: str

    @property
    def name(self) -> str:
        return f"{self.stage}-{self.fingerprint[:16]}"


def _storage(config: TrainConfig, workspace: Path) -> tuple[FileSystem, str]:
    """Where checkpoints go: a file system, and a folder in it."""
    if config.storage.startswith("s3://"):
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        patient = {"request_timeout": _PATIENCE_S, "connect_timeout": _PATIENCE_S}
        options = {"endpoint_override": endpoint} if endpoint else {}
        return S3FileSystem(**patient, **options), config.storage.removeprefix("s3://").rstrip("/")
    folder = Path(config.storage) if config.storage else workspace / checkpoint.CHECKPOINTS / "ray"
    folder.mkdir(parents=True, exist_ok=True)
    return LocalFileSystem(), str(folder)


def _trainer(work: _Work, storage: FileSystem, folder: str, board: Any) -> TorchTrainer:
    config = work.recipe.train
    count = config.workers if config.min_workers == config.workers else (config.min_workers, config.workers)
    return TorchTrainer(
        _train,
        train_loop_config={"work": work, "board": board},
        scaling_config=ScalingConfig(
            num_workers=count,
            use_gpu=bool(config.gpus),
            resources_per_worker={"CPU": config.cpus} | ({"GPU": config.gpus} if config.gpus else {}),
        ),
        run_config=RunConfig(
            name=work.name,
            storage_path=folder,
            storage_filesystem=storage,
            failure_config=FailureConfig(max_failures=config.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=config.keep),
            callbacks=[Obituaries(board)],
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )


def _train(config: dict[str, Any]) -> None:
    """What each worker does."""
    work: _Work = config["work"]
    logging.getLogger().setLevel(logging.WARNING)  # else every checkpoint is told of, between our lines
    workers, device = Workers(work.recipe.train.strategy), get_device()
    torch.set_num_threads(max(1, int(work.recipe.train.cpus)))
    last = ray.train.get_checkpoint()
    if last is not None:
        with last.as_directory() as folder:
            if (Path(folder) / _MODEL).exists():  # killed between the last report and the end
                _report(last, CheckpointUploadMode.NO_UPLOAD)
                return
    with told(config["board"]) if workers.rank == 0 else nullcontext():
        trained = train_stage(work.stage, work.recipe, work.workspace, device, workers, _Committed(work, workers))
    weights = {name: whole(tensor).cpu() for name, tensor in trained.model.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        if workers.rank == 0:
            model = TokenLM(trained.model.spec)
            model.load_state_dict(weights)
            save_stage(Path(folder) / _MODEL, model, trained.metrics)
        write_json(Path(folder) / f"{workers.rank}-{_SPEED}", trained.speed | {"workers": workers.size})
        _report(Checkpoint.from_directory(folder), CheckpointUploadMode.SYNC)


class _Committed:
    """The checkpoints that Ray keeps; each worker adds its own files."""

    def __init__(self, work: _Work, workers: Workers) -> None:
        self._fingerprint, self._workers = work.fingerprint, workers

    def resume(self, state: TrainState) -> Any:
        newest = ray.train.get_checkpoint()
        if newest is None:
            return None
        with newest.as_directory() as folder:
            return checkpoint.read(Path(folder), state, self._fingerprint)

    def save(self, state: TrainState, besides: Any) -> None:
        """Written to this machine's disk at once; sent from there to the storage while training goes on."""
        folder = Path(tempfile.mkdtemp(prefix="v2meow-"))
        checkpoint.write(folder, state.tensors(), self._fingerprint, state.step, besides, self._workers)
        _report(Checkpoint.from_directory(folder), CheckpointUploadMode.ASYNC, delete=True)


def _report(found: Checkpoint, mode: CheckpointUploadMode, *, delete: bool = False) -> None:
    ray.train.report({}, checkpoint=found, checkpoint_upload_mode=mode, delete_local_checkpoint_after_upload=delete)


def _take_over(last: Path, work: _Work) -> dict[str, Any]:
    """Bring the trained model into the workspace; the figures that the step prints."""
    with atomic_folder(work.workspace / "models" / work.stage) as folder:
        for file in (last / _MODEL).iterdir():
            shutil.copyfile(file, folder / file.name)
    metrics = read_json(last / _MODEL / "metrics.json")
    speed = read_json(last / f"0-{_SPEED}")
    write_json(work.workspace / SPEED.format(stage=work.stage), speed)
    return {key: metrics[key] for key in ("parameters", "train_loss", "holdout_loss")} | speed
