"""Running steps: each is `dvc repro --single-item` in a child process that dies with its driver.

DVC decides whether a step's outputs are still good; this file starts it, watches it and tells in
one line why it failed. A driver that gets SIGTERM hands it on to the step that is running, if that
one can be stopped so, and else ends it. Knows nothing of what a step does.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

from v2meow.preempt import CONTINUE_LATER, PID_VARIABLE, Asked, Interrupted, asked_to_stop, never
from v2meow.progress import FILE_VARIABLE
from v2meow.workspace.errors import StageError, WorkspaceError
from v2meow.workspace.folder import child_environment
from v2meow.workspace.graph import graph, stages, stale
from v2meow.workspace.owner import owner_environment

Result = TypeVar("Result")
State = Literal["running", "done", "unchanged", "failed"]
Progress = dict[str, Any]  # what v2meow.progress writes: label, done, total, note

_POLL_S = 0.2
_ORPHANS_S = 20.0  # how long what a killed run left behind may take to vanish
_STOPPING_S = 25.0  # how long a step that was asked to stop may take; whoever asks often kills after 30 s
# How DVC says that another DVC process runs a step on the same files, or stores its outputs.
_BUSY = ("is busy, it is being blocked by", "Unable to acquire lock")


def run_stale(workspace: Path, names: list[str], show: Callable[[str, State, Progress], None]) -> list[str]:
    """Run those of `names` that are out of date, in that order, and return them.

    `show` is told of every change of state, and of a running step's progress about 5 times a second.
    Raises StageError at the first step that fails, Interrupted after SIGTERM. Call it inside `owned`.
    """
    with asked_to_stop() as asked:
        outdated = _patiently(lambda: stale(workspace, *names))
        ran: list[str] = []
        for name in names:
            # What a step made decides anew about those after it.
            if name not in (stale(workspace, name) if ran else outdated):
                show(name, "unchanged", {})
                continue
            if asked():
                raise Interrupted(f"interrupted before {name}: the same command goes on from there")
            show(name, "running", {})
            try:
                run_stage(workspace, name, lambda progress, name=name: show(name, "running", progress), asked)
            except StageError:
                show(name, "failed", {})
                raise
            show(name, "done", {})
            ran.append(name)
    return ran


def with_dependencies(workspace: Path, names: list[str]) -> list[str]:
    """`names` and everything that they depend on, in running order. WorkspaceError for an unknown name."""
    needs = graph(workspace)
    wanted: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in needs:
            raise WorkspaceError(f"no step {name!r}: there are {', '.join(needs)}")
        if name not in wanted:
            wanted.add(name)
            waiting += needs[name]
    return [name for name in stages(workspace) if name in wanted]


def run_stage(
    workspace: Path,
    name: str,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    asked: Asked = never,
) -> None:
    """Run one step through DVC, until this process is `asked` to stop. Call it inside `owned`.

    Raises StageError with the step's own last words, Interrupted where it stopped to go on later.
    """
    # Waiting for DVC's lock instead of its 3 s: another DVC process may be storing a step's outputs.
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", name]
    _patiently(lambda: _run_watched(workspace, name, command, on_progress, asked))


def run_command(
    workspace: Path, name: str, arguments: list[str], on_progress: Callable[[Progress], None] = lambda progress: None
) -> None:
    """Run `v2meow ARGUMENTS`, which is no step of the pipeline, as `run_stage` runs a step."""
    _run_watched(workspace, name, [sys.executable, "-m", "v2meow.cli", *arguments], on_progress)


def _patiently(call: Callable[[], Result]) -> Result:
    """The result of `call`, repeated while DVC refuses: a killed run's orphans need a moment to vanish."""
    deadline = time.monotonic() + _ORPHANS_S
    while True:
        try:
            return call()
        except (StageError, WorkspaceError) as error:
            if not any(sign in str(error) for sign in _BUSY) or time.monotonic() > deadline:
                raise
        time.sleep(_POLL_S)


def _run_watched(
    workspace: Path,
    name: str,
    command: list[str],
    on_progress: Callable[[Progress], None],
    asked: Asked = never,
) -> None:
    """Run a child whose output goes to `.dvc/tmp/v2meow/NAME.log`; nothing that it started outlives the call."""
    folder = workspace.resolve() / ".dvc" / "tmp" / "v2meow"
    folder.mkdir(parents=True, exist_ok=True)
    log, progress_file, pid_file = (folder / f"{name}.{kind}" for kind in ("log", "progress.json", "pid"))
    for left_behind in (progress_file, pid_file):
        left_behind.unlink(missing_ok=True)
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            cwd=workspace,
            env=_environment(workspace, progress_file, pid_file),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        status = _wait(child, progress_file, pid_file, on_progress, asked)
    finally:
        _end_group(child)
    if status == 0:
        return
    said = log.read_text(errors="replace")
    if asked() or status in (CONTINUE_LATER, -signal.SIGTERM) or _status_in(said) == CONTINUE_LATER:
        raise Interrupted(f"{name} was interrupted: the same command goes on from there (log: {log})")
    raise StageError(f"{name} failed: {_reason(said, status)} (log: {log})")


def _environment(workspace: Path, progress_file: Path, pid_file: Path) -> dict[str, str]:
    """A step finds this environment's `v2meow` first, where to report, and whom it dies with."""
    search = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    reports = {FILE_VARIABLE: str(progress_file), PID_VARIABLE: str(pid_file)}
    return child_environment() | owner_environment(workspace) | reports | {"PATH": search}


def _wait(
    child: subprocess.Popen[bytes],
    progress_file: Path,
    pid_file: Path,
    on_progress: Callable[[Progress], None],
    asked: Asked,
) -> int | None:
    """The child's exit status; its progress is passed on meanwhile. None when it is to be ended, as `asked`."""
    step, status = None, None
    while status is None and not asked():
        with suppress(subprocess.TimeoutExpired):
            status = child.wait(_POLL_S)
        step = _number_in(pid_file) or step
        if status is None and progress_file.exists():
            on_progress(json.loads(progress_file.read_text()))
    if step and status in (None, -signal.SIGTERM):  # some ask all processes, and DVC has died of it
        _stop(child, step, pid_file)
    return child.poll()


def _stop(child: subprocess.Popen[bytes], step: int, pid_file: Path) -> None:
    """Ask a step that can be stopped to do so, and wait for it and its DVC, which may be storing what it made."""
    if pid_file.exists():
        with suppress(ProcessLookupError):
            os.kill(step, signal.SIGTERM)
    deadline = time.monotonic() + _STOPPING_S
    while (child.poll() is None or pid_file.exists()) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _number_in(file: Path) -> int | None:
    """What is written there; None as long as it is not there, or no longer."""
    with suppress(FileNotFoundError, ValueError):
        return int(file.read_text())
    return None


def _end_group(leader: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a child's process group: after Ctrl-C, or when DVC died before its step."""
    with suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()


def _reason(log: str, status: int | None) -> str:
    """Why a step failed: its own `error: …` line, else the end of its traceback, else what DVC says."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    own = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if own:
        return own[-1]
    of_dvc = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    if "Traceback (most recent call last):" in lines:
        return [line for line in lines if not line.startswith("ERROR: ")][-1]
    return _killed(log) or of_dvc[0] if of_dvc else f"exit status {status}"


def _status_in(said: str) -> int:
    """The exit status of a step, as DVC tells it; 0 where it does not."""
    found = re.search(r"^ERROR: .*exited with (-?\d+)$", said, re.MULTILINE)
    return int(found[1]) if found else 0


def _killed(said: str) -> str | None:
    """What a signal did to a step, whose exit status is -9 from one shell and 137 from another; else None."""
    status = _status_in(said)
    number = -status if status < 0 else status - 128
    if number <= 0:
        return None
    hint = "; the system does that when memory runs out" if number == signal.SIGKILL else ""
    return f"it was killed by signal {number}{hint}"
