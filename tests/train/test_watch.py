"""What is watched of a training: each step once, whatever happens on the way, and outside of the model."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml
from catalogues import write_examples
from events import shown, shown_steps

from v2meow.files import write_json
from v2meow.train import step
from v2meow.train.history import History
from v2meow.train.loop import StepReport
from v2meow.train.reports import write_reports
from v2meow.train.spikes import Point
from v2meow.train.watch import TensorBoard

ROOT = Path(__file__).parents[2]
DVC = [sys.executable, "-m", "dvc"]
CHANGES = {
    "stages.coarse.steps": 12,
    "stages.coarse.max_epochs": 100,
    "stages.coarse.checkpoint_steps": 5,
    "stages.coarse.evaluate_steps": 6,
}
LEARNT = ["loss", "loss_level_0", "loss_level_1", "gradient_norm", "learning_rate"]
FAST = ["tokens_s", "mfu", "data_wait"]


@pytest.fixture
def workspace(tmp_path):
    return write_examples(tmp_path, tiny.recipe(CHANGES))


def _curve(workspace: Path) -> list[Point]:
    return json.loads((workspace / "models/coarse/metrics.json").read_text())["curve"]


def test_every_figure_of_every_step_is_shown_once(workspace):
    step.run("coarse", tiny.recipe(CHANGES), workspace)
    curve, found = _curve(workspace), shown(workspace / "logs/coarse")
    assert sorted(found) == sorted([*LEARNT, *FAST, "holdout_loss"])
    for name in LEARNT:
        expected = [(point["step"], pytest.approx(point[name], rel=1e-6)) for point in curve]
        assert found[name] == expected and len(expected) == 12
    assert [number for number, _ in found["tokens_s"]] == list(range(12))
    assert [number for number, _ in found["holdout_loss"]] == [5, 11]
    levels = [point["loss_level_0"] + point["loss_level_1"] for point in curve]
    assert levels == pytest.approx([2 * point["loss"] for point in curve])
    assert (workspace / "logs/.gitignore").read_text() == "*\n"


def test_steps_after_the_last_checkpoint_of_a_killed_training_are_shown_once(workspace, monkeypatch):
    """They are made again: two values of one step draw a line that goes back."""
    batches = step.training_batches

    def dying(recipe, stage, examples, first_step=0):
        for number, batch in enumerate(batches(recipe, stage, examples, first_step), first_step):
            if number == 9:
                raise KeyboardInterrupt
            yield batch

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(step, "training_batches", dying)
        step.run("coarse", tiny.recipe(CHANGES), workspace)
    assert shown_steps(workspace / "logs/coarse") == list(range(9))
    step.run("coarse", tiny.recipe(CHANGES), workspace)
    found = shown(workspace / "logs/coarse")
    assert len(list((workspace / "logs/coarse").iterdir())) == 2  # what was shown before is still there
    assert all([number for number, _ in found[name]] == list(range(12)) for name in [*LEARNT, *FAST])
    assert [number for number, _ in found["holdout_loss"]] == [5, 11]


def test_a_process_of_a_lower_number_goes_on_within_a_second(tmp_path, monkeypatch):
    """Numbers of processes begin again at the top; steps after a kill would stand before those that led to it."""
    for number, steps in ((9, range(4)), (1, range(2, 6))):
        monkeypatch.setattr(os, "getpid", lambda number=number: number)
        board = TensorBoard(tmp_path / "coarse")
        board.begin(steps[0])
        for made in steps:
            board.show(made, {"loss": 0.0})
        board.close()
    assert shown_steps(tmp_path / "coarse") == list(range(6))


def test_another_training_is_shown_alone(workspace):
    step.run("coarse", tiny.recipe(CHANGES), workspace)
    step.run("coarse", tiny.recipe(CHANGES | {"stages.coarse.steps": 4}), workspace)
    assert shown_steps(workspace / "logs/coarse") == list(range(4))


def test_without_tensorboard_nothing_is_missing_but_its_files(workspace, monkeypatch):
    monkeypatch.setattr("v2meow.train.watch.find_spec", lambda name: None)
    step.run("coarse", tiny.recipe(CHANGES), workspace)
    assert len(_curve(workspace)) == 12 and not (workspace / "logs").exists()


def _report(number: int, **changes: Any) -> StepReport:
    figures: dict[str, Any] = {
        "loss": 1.0,
        "gradient_norm": 1.0,
        "learning_rate": 0.1,
        "tokens_s": 100.0,
        "mfu": 0.5,
        "waited": 0.0,
    }
    return StepReport(step=number, loss_by_level=(1.0,), **(figures | changes))


def test_the_share_of_waiting_is_that_of_all_time():
    """Shares of fast steps and of slow ones weigh alike in a mean of shares."""
    history = History("coarse")
    history.add(_report(0, tokens_s=100.0, waited=0.0), None)
    history.add(_report(1, tokens_s=25.0, waited=0.5), None)  # takes four times as long
    assert history.speed()["data_wait"] == pytest.approx(0.5 * 4 / 5)
    assert "gpu_gib" not in history.speed()


def test_a_long_training_is_told_in_few_points_of_all_its_steps():
    """A report that grows with the steps is none, and lies in git for ever."""
    history = History("coarse")
    for number in range(1203):
        history.add(_report(number, tokens_s=number + 1.0), gpu_gib=number / 1000)
    curve = history.speed()["curve"]
    assert len(curve) == 401 and [point["step"] for point in curve] == list(range(2, 1203, 3))
    assert curve[1] == {"step": 5, "tokens_s": 5.0, "mfu": 0.5, "data_wait": 0.0, "gpu_gib": 0.004}
    assert history.speed()["gpu_gib"] == 1.2


def test_a_loss_that_is_no_number_is_kept_as_json_and_never_the_lowest():
    history = History("coarse")
    for number, loss in enumerate((math.nan, 2.0, 3.0)):
        history.add(_report(number, loss=loss), None)
        history.curve[-1]["holdout_loss"] = None if math.isnan(loss) else loss
    json.dumps(history.kept, allow_nan=False)
    assert history.lowest == history.curve[1] and history.curve[0]["loss"] is None


@pytest.mark.slow
def test_dvc_draws_every_curve_of_a_training(tmp_path):
    """DVC leaves out a list whose points differ in their keys, and a plot of which it misses a field."""
    history = History("coarse")
    for number in range(4):
        report = _report(number, loss=math.nan if number == 2 else 1.0, skipped=number == 2)
        history.add(replace(report, loss_by_level=(1.0, 2.0)), None)
    history.add_held_out(torch.tensor([2.0, 3.0]))
    metrics = {"parameters": 1, "train_loss": 1.0, "holdout_loss": 2.5, "curve": history.curve}
    write_json(tmp_path / "models/coarse/metrics.json", metrics)
    write_reports("coarse", tmp_path, metrics, history.speed())
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"plots": plots}))
    for command in (
        ["git", "init", "--quiet"],
        [*DVC, "init", "--quiet"],
        [*DVC, "plots", "show", "--json", "--split"],
    ):
        shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    data = json.loads(shown.stdout)["data"]
    drawn = {name: len(plot[0]["anchor_definitions"]["<DVC_METRIC_DATA>"]) for name, plot in data.items()}
    names = ("loss", "holdout_loss", "gradient_norm", "learning_rate", *FAST)
    levels = [f"reports/levels/coarse/{level}.tsv" for level in (0, 1)]
    assert drawn == dict.fromkeys((*names, *levels), 4)
