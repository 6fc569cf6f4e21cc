"""What a training has shown so far, step by step: what it learnt, which is the same every time, and how fast it was.

Both are kept with its checkpoints. The first becomes a part of the model's metrics, the second of a report: in the
model folder it would give the same model another hash every time.
"""

import math
from statistics import fmean, median
from typing import Any

from torch import Tensor

from v2meow.train.loop import StepReport
from v2meow.train.spikes import Point, TrainingError

_POINTS = 500  # of a curve in a report at most: it is read by people, and lies in git
_DIGITS = {"tokens_s": 3, "mfu": 2, "data_wait": 2, "gpu_gib": 3}  # that speeds are good for


class History:
    """The steps of one training, and what is told of them.

    A point of `curve` holds step, loss, the loss of each codebook level, gradient_norm, learning_rate and, where it was
    measured after the step, holdout_loss; one of `pace` step, tokens_s, mfu, data_wait (the share of the step's time)
    and, with a GPU, gpu_gib (the most that was in use so far).
    """

    def __init__(self, stage: str, kept: dict[str, list[Point]] | None = None) -> None:
        self._stage = stage
        self.curve: list[Point] = kept["curve"] if kept else []
        self.pace: list[Point] = kept["pace"] if kept else []

    @property
    def kept(self) -> dict[str, list[Point]]:
        """What a checkpoint keeps of it, as JSON."""
        return {"curve": self.curve, "pace": self.pace}

    def add(self, report: StepReport, gpu_gib: float | None) -> None:
        """Count a step that has been made."""
        # DVC draws a list only when its first point has all keys that any of them has.
        first = {} if self.curve else {"skipped": False, "holdout_loss": None}
        self.curve.append(first | _point(report))
        pace = {"tokens_s": report.tokens_s, "mfu": report.mfu, "data_wait": report.waited}
        pace |= {} if gpu_gib is None else {"gpu_gib": gpu_gib}
        self.pace.append({"step": report.step, **pace})

    def add_held_out(self, by_level: Tensor) -> bool:
        """Count the held-out loss [K] after the last step. Whether it is the lowest so far."""
        loss = float(by_level.mean())
        lowest = self.lowest
        self.curve[-1]["holdout_loss"] = loss if math.isfinite(loss) else None
        return math.isfinite(loss) and (lowest is None or loss < lowest["holdout_loss"])

    @property
    def measured(self) -> bool:
        """Whether there is a held-out loss of the last step."""
        return bool(self.curve) and self.curve[-1].get("holdout_loss") is not None

    @property
    def lowest(self) -> Point | None:
        """The first point with the lowest held-out loss."""
        told = [point for point in self.curve if point.get("holdout_loss") is not None]
        return min(told, key=lambda point: point["holdout_loss"], default=None)

    def go_back(self, steps: int) -> None:
        """Forget all but the first `steps` steps."""
        del self.curve[steps:], self.pace[steps:]

    @property
    def last_loss(self) -> float:
        """That of the last step whose update was made. TrainingError where there is none."""
        losses = [point["loss"] for point in self.curve if not point.get("skipped")]
        if not losses:
            raise TrainingError(
                f"train {self._stage}: no update was made in {len(self.curve)} steps: "
                f"lower stages.{self._stage}.learning_rate"
            )
        return losses[-1]

    @property
    def newest(self) -> dict[str, float | None]:
        """All figures of the last step; None: no number."""
        told = self.curve[-1] | self.pace[-1]
        return {name: value for name, value in told.items() if name not in ("step", "skipped")}

    def speed(self) -> dict[str, Any]:
        """Medians over the steps, the share of all time that was waited, the most memory, and a curve of them."""
        if not self.pace:
            return {}
        told: dict[str, float] = {name: median(point[name] for point in self.pace) for name in ("tokens_s", "mfu")}
        seconds = [1 / point["tokens_s"] for point in self.pace]  # of a code: steps are of equal size
        waited = sum(second * point["data_wait"] for second, point in zip(seconds, self.pace, strict=True))
        told["data_wait"] = waited / sum(seconds)
        memory = [point["gpu_gib"] for point in self.pace if "gpu_gib" in point]
        told |= {"gpu_gib": max(memory)} if memory else {}
        return {**_rounded(told), "curve": [_rounded(point) for point in thinned(self.pace)]}


def _point(report: StepReport) -> Point:
    """The report's place on the loss curve; JSON has no NaN."""
    levels = {f"loss_level_{level}": loss for level, loss in enumerate(report.loss_by_level)}
    figures = {"loss": report.loss, **levels, "gradient_norm": report.gradient_norm}
    numbers = {name: value if math.isfinite(value) else None for name, value in figures.items()}
    told = {"step": report.step, **numbers, "learning_rate": report.learning_rate}
    return told | ({"skipped": True} if report.skipped else {})


def thinned(points: list[Point]) -> list[Point]:
    """At most `_POINTS` points, each the mean of the numbers of as many steps and named by the last of them."""
    size = math.ceil(len(points) / _POINTS)
    groups = (points[first : first + size] for first in range(0, len(points), size))
    return [{"step": group[-1]["step"], **_means(group)} for group in groups]


def _means(group: list[Point]) -> dict[str, float]:
    told = {name: [point[name] for point in group if point.get(name) is not None] for name in group[0]}
    return {name: fmean(values) for name, values in told.items() if values and name not in ("step", "skipped")}


def _rounded(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: float(f"{value:.{_DIGITS[name]}g}") if name in _DIGITS else value for name, value in figures.items()}
