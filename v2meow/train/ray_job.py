"""A training on a cluster far away: `v2meow train STAGE` as a job of the cluster's job server, watched from here.

A job's id says what it trains: the stage, the workspace, the fingerprint of recipe, examples and code, and the how
manieth attempt at it this is. A job server takes every id once, so that there are never two jobs for one training,
whoever asks for it and how often. How a training is done is not known here: what it says comes through its log, and
how far it is through a file in the workspace, which all machines see under the same path.
"""

import hashlib
import os
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

import torch

from v2meow.cluster import JobServer, job_server
from v2meow.config import Recipe, StageName
from v2meow.files import read_json
from v2meow.preempt import CONTINUE_LATER, Asked, Interrupted, stoppable
from v2meow.progress import FILE_VARIABLE, Progress, progress
from v2meow.train import checkpoint

Result = TypeVar("Result")

_LOOK_S = 1.0
_LOG_BYTES_S = 1e6  # a log is fetched whole: a longer one less often
_PATIENCE_S = 300.0  # with a job server that does not answer
_STOPPING_S = 120.0  # Ray's own patience with what it stops is 3 s, in which no checkpoint is written
_NOT_FOUND = 127  # of a shell
_LOSSES = ("train_loss", "holdout_loss")


class JobError(Exception):
    """A job that failed, or could not be begun; the message says why in one line."""


def run(address: str, stage: StageName, recipe: Recipe, workspace: Path) -> dict[str, Any]:
    """Have a stage trained by the cluster at `address`, and show its log and progress until it is done.

    A job that is at it already is watched, and one that has made the model that is here is not repeated. Whoever stops
    watching (KeyboardInterrupt; Interrupted for SIGTERM) leaves the job alone. JobError with its own last words where
    it failed, Interrupted where it was stopped; what is then submitted anew goes on from the last checkpoint.
    """
    work = _Work(stage, recipe, workspace.resolve())
    with stoppable() as asked:
        server = job_server(address)
        job = _job(server, work)
        print(f"train {stage} is job {job}", file=sys.stderr)
        try:
            ended, log = _watch(server, job, work, asked)
        except KeyboardInterrupt:
            print(_left_alone(stage, job), file=sys.stderr)
            raise
    _judge(ended, job, log, work)
    return {}  # the job's figures are the last lines of its log


def stop(address: str, stage: StageName, recipe: Recipe, workspace: Path) -> dict[str, Any]:
    """Stop the job that trains this stage in this workspace, whatever recipe it was begun with, and see it end."""
    server = job_server(address)
    running = _running(server, _Work(stage, recipe, workspace.resolve()))
    for job in running:
        server.stop_job(job)
    deadline = time.monotonic() + 2 * _STOPPING_S
    while not all(server.get_job_status(job).is_terminal() for job in running):
        if time.monotonic() > deadline:
            raise JobError(f"{', '.join(running)} does not end: look at {address}")
        time.sleep(_LOOK_S)
    return {"stopped": ", ".join(running) or "nothing was running"}


@dataclass(frozen=True)
class _Work:
    """What is to be trained, and where."""

    stage: StageName
    recipe: Recipe
    workspace: Path

    @property
    def place(self) -> str:
        """What the ids of all jobs for this stage of this workspace begin with."""
        return f"v2meow-{self.stage}-{hashlib.sha256(str(self.workspace).encode()).hexdigest()[:8]}-"

    @property
    def name(self) -> str:
        """What the ids of all attempts at this training begin with."""
        device = torch.device("cuda" if self.recipe.train.gpus else "cpu")
        return f"{self.place}{checkpoint.fingerprint(self.recipe, self.stage, self.workspace, device)[:16]}-"

    @property
    def model(self) -> Path:
        return self.workspace / "models" / self.stage

    @property
    def progress(self) -> Path:
        """Where the job tells how far it is."""
        return self.workspace / checkpoint.CHECKPOINTS / f"job-{self.stage}.json"


def _job(server: JobServer, work: _Work) -> str:
    """The id of the job that does the work: one that is there, or a new one."""
    name = work.name
    attempts = {job: info for job, info in _jobs(server).items() if job.startswith(name)}
    newest = max(attempts, key=_attempt, default=None)
    if newest and not attempts[newest].status.is_terminal():
        return newest
    if newest and attempts[newest].status == "SUCCEEDED" and _made(work.model, _log(server, newest)):
        return newest
    for other in _running(server, work):
        if not other.startswith(name):
            raise JobError(
                f"job {other} trains {work.stage} by another recipe, examples or code: wait, or end it with --stop"
            )
    return _submit(server, work, f"{name}{_attempt(newest) + 1 if newest else 1}")


def _submit(server: JobServer, work: _Work, job: str) -> str:
    work.progress.parent.mkdir(parents=True, exist_ok=True)
    work.progress.unlink(missing_ok=True)
    environment = {
        FILE_VARIABLE: str(work.progress),
        "RAY_JOB_STOP_WAIT_TIME_S": f"{_STOPPING_S:.0f}",
        # This environment's `v2meow` where the cluster has it, too, else the cluster's own.
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), "${PATH}")),
    }
    command = shlex.join(("v2meow", "train", work.stage, "--workspace", str(work.workspace)))
    try:
        return server.submit_job(entrypoint=command, submission_id=job, runtime_env={"env_vars": environment})
    except RuntimeError as error:
        if "already exists" in str(error):
            return job  # somebody else was as quick
        raise JobError(f"{job} was not accepted: {str(error).partition('Traceback')[0].strip()}") from None


def _jobs(server: JobServer) -> dict[str, Any]:
    return {info.submission_id: info for info in server.list_jobs() if info.submission_id}


def _running(server: JobServer, work: _Work) -> list[str]:
    jobs = _jobs(server).items()
    return [job for job, info in jobs if job.startswith(work.place) and not info.status.is_terminal()]


def _attempt(job: str) -> int:
    return int(job.rpartition("-")[2])


def _made(model: Path, log: str) -> bool:
    """Whether the model is the one whose losses a job told of at its end: recipes come and go, and models with them."""
    try:
        metrics = read_json(model / "metrics.json")
    except FileNotFoundError:
        return False
    return {f"{name}: {metrics[name]:.4g}" for name in _LOSSES} <= set(log.splitlines())


def _watch(server: JobServer, job: str, work: _Work, asked: Asked) -> tuple[Any, str]:
    """Show what the job says and how far it is; what there is to know of it when it has ended, and its log."""
    said, bar = "", None
    with ExitStack() as stack:
        while True:
            info = _patiently(job, lambda: server.get_job_info(job))  # before its log, which is then complete
            log = _patiently(job, lambda: _log(server, job)) or said
            print(log[len(said) :], end="", flush=True)
            said = log
            bar = _advance(bar, work.progress, stack)
            if info.status.is_terminal():
                work.progress.unlink(missing_ok=True)
                return info, said
            if asked():
                raise Interrupted(_left_alone(work.stage, job))
            time.sleep(_LOOK_S + len(log) / _LOG_BYTES_S)


def _patiently(job: str, look: Callable[[], Result]) -> Result:
    """What `look` sees, as soon as the job server answers. JobError when it does not for minutes."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return look()
        except Exception as error:  # of the network, of HTTP, of Ray
            if time.monotonic() > deadline:
                reason = shorten(str(error), 200, placeholder=" …")
                raise JobError(
                    f"lost sight of job {job}, which may go on; look again with the same command: {reason}"
                ) from None
        time.sleep(_LOOK_S)


def _log(server: JobServer, job: str) -> str:
    """All that a job has said; nothing where it has not begun, and where its machine is gone."""
    with suppress(RuntimeError):
        return server.get_job_logs(job)
    return ""


def _advance(bar: Progress | None, file: Path, stack: ExitStack) -> Progress | None:
    """Bring the bar to where the job is, once that is known."""
    try:
        state = read_json(file)
    except FileNotFoundError:
        return bar
    if bar is None:
        bar = stack.enter_context(progress(state["label"], state["total"]))
    bar.advance(state["done"] - bar.done, note=state["note"])
    return bar


def _left_alone(stage: StageName, job: str) -> str:
    return f"train {stage} goes on as job {job}: the same command watches it again, and with --stop ends it"


def _judge(ended: Any, job: str, log: str, work: _Work) -> None:
    """Return where the job did what it had to."""
    if ended.status == "STOPPED" or ended.driver_exit_code == CONTINUE_LATER:
        raise Interrupted(f"job {job} was stopped: the same command goes on from the last checkpoint")
    if ended.status != "SUCCEEDED":
        raise JobError(f"job {job} failed: {_reason(ended, log)}")
    if not (work.model / "metrics.json").is_file():
        raise JobError(f"job {job} succeeded and {work.model} is not here: all machines must see the workspace there")


def _reason(ended: Any, log: str) -> str:
    """Why a job failed: its own `error: …` line, else what its shell or Ray say."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    own = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if own:
        return own[-1]
    if ended.driver_exit_code == _NOT_FOUND:
        return f"`v2meow` is neither in {Path(sys.executable).parent} nor on the PATH of the cluster's head"
    if ended.driver_exit_code is None:
        return shorten(ended.message or "no reason is known", 300, placeholder=" …")
    return f"exit status {ended.driver_exit_code}{f': {lines[-1]}' if lines else ''}"
