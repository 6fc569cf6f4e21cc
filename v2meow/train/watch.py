"""Who looks at a training while it runs: TensorBoard, where it is installed.

What is watched is never read again, and may be deleted: a training goes on from its checkpoints alone.
"""

import shutil
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

LOGS = Path("logs")


class Watcher(Protocol):
    """Shown every step of a training, by its first worker."""

    def begin(self, step: int) -> None:
        """Step `step` comes next: what was shown of it and of later ones, before a kill or a step back, is void."""

    def show(self, step: int, figures: dict[str, float]) -> None:
        """The figures of a step, by their names in the training's history; several calls for a step add up."""

    def flush(self) -> None:
        """Bring what was shown to where it is watched: a checkpoint is being written."""

    def close(self) -> None:
        """No step comes after this, in this process."""


def watchers(workspace: Path, stage: str) -> list[Watcher]:
    """Those that are installed."""
    return [TensorBoard(workspace / LOGS / stage)] if find_spec("tensorboard") else []


class TensorBoard:
    """Event files in `folder`: `tensorboard --logdir` of the folder above shows all stages, one curve a figure."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def begin(self, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # an extra, and its import takes a second

        self.close()
        if step == 0:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder.parent / ".gitignore").write_text("*\n")
        _wait_to_be_the_newest(self._folder)
        self._writer = SummaryWriter(str(self._folder), purge_step=step or None)

    def show(self, step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _wait_to_be_the_newest(folder: Path) -> None:
    """Wait for the next second, where it is needed: TensorBoard reads files in the order of their names.

    These begin with the second, and go on with the number of the process, which may be lower than that of the last one.
    """
    seconds = (int(path.name.split(".")[3]) for path in folder.glob("events.out.tfevents.*"))
    time.sleep(min(1.0, max(0.0, max(seconds, default=0) + 1 - time.time())))
