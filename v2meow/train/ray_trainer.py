"""The training loop under Ray Train: the same steps in several processes, which are replaced when they die.

All machines of the cluster see the workspace under the same path. A run's name holds the fingerprint of what it trains
(code, data, recipe): started again, a run goes on from the last checkpoint that Ray has committed, never from one that
merely lies in the storage, and a changed recipe never takes over an older run's steps.
"""

import json
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager, nullcontext
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
from v2meow.preempt import Asked, Interrupted, never, stoppable
from v2meow.train import checkpoint
from v2meow.train.ray_board import Obituaries, new_board, shown, told
from v2meow.train.ray_check import refuse_what_cannot_work
from v2meow.train.ray_gauges import Gauges
from v2meow.train.reports import write_reports
from v2meow.train.state import TrainState
from v2meow.train.step import Trained, train_stage
from v2meow.train.watch import watchers
from v2meow.train.workers import Workers, whole

os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "60")  # then fewer workers go on, where that is allowed
import ray.train
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    CheckpointConsistencyMode,
    CheckpointUploadMode,
    FailureConfig,
    LoggingConfig,
    ReportedCheckpoint,
    Result,
    RunConfig,
    ScalingConfig,
)
from ray.train.torch import TorchTrainer, get_device
from ray.train.v2.api.exceptions import TrainingFailedError

Send = Callable[[Checkpoint, str], Checkpoint]

_PATIENCE_S = 40  # with a silent storage, three times over: another number of tries does not travel to the workers
_MODEL, _SPEED = "model", "speed.json"  # in a run's last checkpoint
_STEP, _FINISHED = "step", "finished"  # what is reported with a checkpoint: steps made; the last one, with the model
_LOOK_S = 0.5
_GRACE_S = 24.0  # of the 30 s between SIGTERM and SIGKILL, for the workers' last checkpoint and Ray's end


def run(stage: StageName, recipe: Recipe, workspace: Path) -> dict[str, Any]:
    """Train one stage by the recipe's workers and write models/STAGE, as `step.run` does.

    SIGTERM to this process ends it with Interrupted, after a checkpoint of all workers. TrainingError listing all that
    cannot work, before a worker is started; the error that a worker met, when it has been met more than `max_failures`
    times.
    """
    device = torch.device("cuda" if recipe.train.gpus else "cpu")
    work = _Work(stage, recipe, workspace.resolve(), checkpoint.fingerprint(recipe, stage, workspace, device))
    with connected(), stoppable() as asked:  # in this order: Ray takes SIGTERM for itself when it connects
        storage, folder = _storage(recipe.train, work.workspace)
        refuse_what_cannot_work(stage, recipe, work.workspace, storage, folder)
        board = new_board()
        try:
            with shown(board):
                result = _fit(_trainer(work, storage, folder, board), board, asked)
        except TrainingFailedError as error:
            raise own_cause(error) from None
        reported = (result and result.metrics) or {}
        if result is None or result.checkpoint is None or _FINISHED not in reported:
            after = f"after {reported[_STEP]} steps" if _STEP in reported else "before it answered"
            raise Interrupted(f"train {stage} stopped {after}: start it again to go on")
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


def _fit(trainer: TorchTrainer, board: Any, asked: Asked) -> Result | None:
    """Train in another thread: this one hears signals. None when it was asked to stop and did not in time."""
    training: futures.Future[Result] = futures.Future()

    def fit() -> None:
        try:
            training.set_result(trainer.fit())
        except BaseException as error:
            training.set_exception(error)

    threading.Thread(target=fit, daemon=True, name="fit").start()  # a daemon: nobody waits for it after the grace
    while not asked():
        if futures.wait([training], _LOOK_S).done:
            return training.result()
    board.stop.remote()
    return training.result() if futures.wait([training], _GRACE_S).done else None


def _train(config: dict[str, Any]) -> None:
    """What each worker does."""
    work: _Work = config["work"]
    logging.getLogger().setLevel(logging.WARNING)  # else every checkpoint is told of, between our lines
    torch.set_num_threads(max(1, int(work.recipe.train.cpus)))
    committed = _committed()
    if committed and _FINISHED in committed[0].metrics:  # killed between the last report and the end
        _report(committed[0].checkpoint, committed[0].metrics, CheckpointUploadMode.NO_UPLOAD)
        return
    first = ray.train.get_context().get_world_rank() == 0
    with told(config["board"]) if first else nullcontext(never) as asked:
        workers = Workers(work.recipe.train.strategy, asked)
        try:
            trained = _trained(work, workers)
        except Interrupted:  # no failure, after which Ray would start again
            return
    weights = {name: whole(tensor).cpu() for name, tensor in trained.model.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        if workers.rank == 0:
            model = TokenLM(trained.model.spec)
            model.load_state_dict(weights)
            save_stage(Path(folder) / _MODEL, model, trained.metrics)
        write_json(Path(folder) / f"{workers.rank}-{_SPEED}", trained.speed | {"workers": workers.size})
        reported = {_STEP: len(trained.metrics["curve"]), _FINISHED: True}
        _report(Checkpoint.from_directory(folder), reported, CheckpointUploadMode.SYNC)


def _trained(work: _Work, workers: Workers) -> Trained:
    watching = [*watchers(work.workspace, work.stage), Gauges(work.stage, work.name)] if workers.rank == 0 else []
    keeper = _Committed(work, workers)
    return train_stage(work.stage, work.recipe, work.workspace, get_device(), workers, keeper, watching)


def _committed() -> list[ReportedCheckpoint]:
    """What Ray will go on from, the newest first, once it has taken note of all that this worker has reported."""
    return ray.train.get_all_reported_checkpoints(consistency_mode=CheckpointConsistencyMode.COMMITTED)[::-1]


@contextmanager
def _folder(found: Checkpoint) -> Iterator[Path]:
    with found.as_directory() as folder:
        yield Path(folder)


class _Committed:
    """The checkpoints that Ray keeps; each worker adds its own files.

    They are written and sent while training goes on, from a copy.
    """

    def __init__(self, work: _Work, workers: Workers) -> None:
        self._fingerprint, self._workers, self._group = work.fingerprint, workers, workers.beside()
        self._storage: Any = ray.train.get_context().get_storage()
        self._sent = threading.Event()
        self._sent.set()

    def resume(self, state: TrainState) -> Any:
        found = (_folder(reported.checkpoint) for reported in _committed())
        return checkpoint.read_newest(found, state, self._fingerprint, self._workers)

    def save(self, state: TrainState, besides: Any) -> None:
        """Begin to save; waits for the one before, so that there is one copy at most."""
        self._sent.wait()
        self._sent.clear()
        tensors, step, kept = checkpoint.copied(state), state.step, json.loads(json.dumps(besides))

        def send(found: Checkpoint, name: str) -> Checkpoint:
            try:
                folder = Path(found.path)
                checkpoint.write(folder, tensors, self._fingerprint, step, kept, self._workers, self._group)
                return self._storage.persist_current_checkpoint(found, name)
            finally:
                self._sent.set()

        folder = tempfile.mkdtemp(prefix="v2meow-")
        _report(Checkpoint.from_directory(folder), {_STEP: state.step}, CheckpointUploadMode.ASYNC, send)

    def finish(self) -> None:
        _committed()


def _report(found: Checkpoint, told: dict[str, Any], mode: CheckpointUploadMode, send: Send | None = None) -> None:
    """Tell Ray of a checkpoint, of which `send` makes one in the storage; its local copy then goes."""
    ray.train.report(
        told,
        checkpoint=found,
        checkpoint_upload_mode=mode,
        checkpoint_upload_fn=send,
        delete_local_checkpoint_after_upload=send is not None,
    )


def _take_over(last: Path, work: _Work) -> dict[str, Any]:
    """Bring the trained model into the workspace; the figures that the step prints."""
    with atomic_folder(work.workspace / "models" / work.stage) as folder:
        for file in (last / _MODEL).iterdir():
            shutil.copyfile(file, folder / file.name)
    metrics = read_json(last / _MODEL / "metrics.json")
    speed = read_json(last / f"0-{_SPEED}")
    return write_reports(work.stage, work.workspace, metrics, speed)
