"""What Prometheus sees of a training under Ray: gauges that every Ray node offers on its metrics endpoint."""

import time

from ray.util.metrics import Gauge

_OF = {  # by the figures' names in a training's history
    "step": ("step", "Steps made."),
    "loss": ("loss", "Training loss of the last step, nats a code."),
    "holdout_loss": ("holdout_loss", "Loss on the held-out clips when it was last measured, nats a code."),
    "gradient_norm": ("gradient_norm", "Norm of the last gradient before clipping."),
    "learning_rate": ("learning_rate", "Learning rate of the last step."),
    "tokens_s": ("tokens_per_second", "Codes learnt from in a second, of all workers together."),
    "mfu": ("mfu_ratio", "Share of the devices' peak that the arithmetic of the last step used."),
    "data_wait": ("data_wait_ratio", "Share of the last step's time in which the first worker waited for its batch."),
    "gpu_gib": ("gpu_memory_gibibytes", "The most memory that the first worker's tensors took on its GPU so far."),
}
_EVERY_S = 1.0  # Ray itself looks at them more rarely


class Gauges:
    """A `Watcher` that sets `ray_v2meow_train_…` with the tags stage and run."""

    def __init__(self, stage: str, run: str) -> None:
        self._tags = {"stage": stage, "run": run}
        self._gauges: dict[str, Gauge] = {}
        self._figures: dict[str, float] = {}
        self._set_at = 0.0

    def begin(self, step: int) -> None:
        self._figures = {"step": float(step)}

    def show(self, step: int, figures: dict[str, float]) -> None:
        self._figures |= {"step": step + 1.0, **figures}
        if time.monotonic() - self._set_at >= _EVERY_S:
            self.flush()

    def flush(self) -> None:
        self._set_at = time.monotonic()
        for figure in self._figures.keys() & _OF.keys():
            self._gauge(figure).set(self._figures[figure], tags=self._tags)

    def close(self) -> None:
        self.flush()

    def _gauge(self, figure: str) -> Gauge:
        """Made when it is first told: a gauge of a GPU that is not there would be nought."""
        if figure not in self._gauges:
            name, told = _OF[figure]
            self._gauges[figure] = Gauge(f"v2meow_train_{name}", description=told, tag_keys=tuple(self._tags))
        return self._gauges[figure]
