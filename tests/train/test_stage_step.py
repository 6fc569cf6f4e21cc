"""The step `train STAGE`: from the examples on disk to a model folder, the same bytes for the same input."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from catalogues import write_examples
from events import shown_steps

from v2meow.config import STAGES
from v2meow.data.manifest import DataError
from v2meow.model.io import load_stage
from v2meow.train.step import make_model, run, within_epochs


@pytest.fixture
def workspace(tmp_path):
    """Five examples to learn from and three that are held out."""
    return write_examples(tmp_path, tiny.recipe())


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_trained_and_tells_how_it_went(stage, workspace):
    recipe = tiny.recipe()
    figures = run(stage, recipe, workspace)
    metrics = json.loads((workspace / "models" / stage / "metrics.json").read_text())
    assert [point["step"] for point in metrics["curve"]] == list(range(recipe.stage(stage).steps))
    assert metrics["holdout_loss"] == pytest.approx(
        sum(metrics["holdout_loss_by_level"]) / len(metrics["holdout_loss_by_level"])
    )
    assert math.isfinite(figures["holdout_loss"]) and figures["train_loss"] == metrics["curve"][-1]["loss"]
    model = load_stage(workspace / "models" / stage)
    assert figures["parameters"] == sum(parameter.numel() for parameter in model.parameters())


def test_training_again_writes_the_same_bytes(workspace):
    """DVC's cache and the bundle's name both rest on it."""
    folder = workspace / "models/semantic"
    run("semantic", tiny.recipe(), workspace)
    first = {file.name: file.read_bytes() for file in folder.iterdir()}
    run("semantic", tiny.recipe(), workspace)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == first


RESUMING = {"steps": 7, "dropout": 0.2, "accumulate": 2, "ema": 0.9, "checkpoint_steps": 2}
DIES = """
import os, signal, sys
from pathlib import Path
import tiny
from v2meow.train import checkpoint, course, step

def train(state, batches, config, peak, on_step, *rest, whole=course.train):
    def shot(report):
        on_step(report)
        if report.step == 4:
            checkpoint.Checkpoints.finish(*made)
            os.kill(os.getpid(), signal.SIGKILL)
    whole(state, batches, config, peak, shot, *rest)

class Made(checkpoint.Checkpoints):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        made.append(self)

made, step.Checkpoints = [], Made

course.train = train
step.run("semantic", tiny.recipe(eval(sys.argv[1])), Path(sys.argv[2]))
"""


def _resuming() -> dict:
    return {f"stages.semantic.{key}": value for key, value in RESUMING.items()}


@pytest.mark.slow
def test_a_killed_training_goes_on_and_ends_with_the_same_bytes(workspace, capsys):
    """Preempted machines are the rule; a model must not depend on how often that happened."""
    recipe = tiny.recipe(_resuming())
    run("semantic", recipe, workspace)
    folder = workspace / "models/semantic"
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    (folder / "model.safetensors").unlink()
    command = [sys.executable, "-c", DIES, repr(_resuming()), str(workspace)]
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    child = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert [path.name for path in (workspace / "checkpoints/semantic").iterdir()] == ["step-00000004"]
    capsys.readouterr()
    run("semantic", recipe, workspace)
    assert "train semantic goes on after 4 steps" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == files  # the loss curve, too
    assert shown_steps(workspace / "logs/semantic") == list(range(7))
    assert not (workspace / "checkpoints/semantic").exists()


def test_a_checkpoint_of_other_work_is_told_and_left_aside(workspace, capsys, monkeypatch):
    """After a change of the recipe training starts afresh, and says so."""
    recipe = tiny.recipe(_resuming())
    with monkeypatch.context() as patched:
        patched.setattr("v2meow.train.step.save_stage", lambda *_: sys.exit("killed before the model was written"))
        with pytest.raises(SystemExit):
            run("semantic", recipe, workspace)
    run("semantic", tiny.recipe(_resuming() | {"stages.semantic.learning_rate": 0.001}), workspace)
    said = [line for line in capsys.readouterr().err.splitlines() if "afresh" in line]
    assert len(said) == 1 and "train semantic starts afresh" in said[0] and "another recipe" in said[0]
    metrics = json.loads((workspace / "models/semantic/metrics.json").read_text())
    assert [point["step"] for point in metrics["curve"]] == list(range(7))


def test_how_fast_it_was_is_told_outside_of_the_model_folder(workspace):
    """Inside, every training would give the same model another hash, and the bundle another name."""
    figures = run("fine", tiny.recipe(), workspace)
    speed = json.loads((workspace / "reports/train_fine.json").read_text())
    curve = speed.pop("curve")
    assert speed.keys() == {"device", "tokens_s", "mfu", "data_wait"} and speed.items() <= figures.items()
    assert speed["tokens_s"] > 0 and 0 < speed["mfu"] < 1 and 0 <= speed["data_wait"] < 1
    assert [point.keys() for point in curve] == 5 * [{"step", "tokens_s", "mfu", "data_wait"}]
    assert "tokens_s" not in (workspace / "models/fine/metrics.json").read_text()


def test_pictures_are_normalised_by_the_training_split():
    """Features of very different scales would drown each other; one that never changes must not divide by zero."""
    recipe = tiny.recipe()
    examples = tiny.examples(recipe, 4)
    examples.visual[0][..., 0] = 7.0
    examples.visual[0][..., 1] *= 1000
    model = make_model(recipe, "semantic", examples)
    normalised = ((examples.visual[0] - model.visual_mean) / model.visual_std).flatten(0, 1)
    torch.testing.assert_close(normalised.mean(0), torch.zeros(tiny.WIDTH), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalised.std(0)[1:], torch.ones(tiny.WIDTH - 1))
    assert (normalised[:, 0] == 0).all()


def test_without_examples_the_step_to_run_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no train examples in .*: run `v2meow extract` first"):
        run("coarse", tiny.recipe(), tmp_path)


def test_a_small_catalogue_is_not_learnt_by_heart():
    """23 real videos seen 34 times each were recited: loss 0.3 in training, near that of guessing on others."""
    config = tiny.recipe({"stages.fine.steps": 100, "stages.fine.max_epochs": 3}).stages.fine
    assert within_epochs(config, 10).steps == 8  # 30 examples in batches of 4
    assert within_epochs(config, 1000).steps == 100
