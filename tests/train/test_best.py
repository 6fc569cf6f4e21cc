"""The held-out loss while a stage is trained: measured without a trace, and the best weights are not lost."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
import torch
from catalogues import dying_after, write_examples

from v2meow.config import RecipeError
from v2meow.data.dataset import read_examples
from v2meow.model.io import load_stage
from v2meow.preempt import Interrupted
from v2meow.train import step
from v2meow.train.batches import held_out_batches
from v2meow.train.loop import held_out_loss
from v2meow.train.step import make_model
from v2meow.train.workers import Workers

STEPS = 26
MEASURED = [3, 7, 11, 15, 19, 23, 25]  # after every fourth step, and after the last
CHANGES = {
    "steps": STEPS,
    "max_epochs": 1000,
    "dropout": 0.2,
    "ema": 0.5,
    "learning_rate": 0.02,  # random examples are learnt by heart: the loss on others rises
    "checkpoint_steps": 5,
}


def _recipe(**changes):
    return tiny.recipe({f"stages.semantic.{key}": value for key, value in {**CHANGES, **changes}.items()})


@pytest.fixture(scope="module")
def examples(tmp_path_factory) -> Path:
    return write_examples(tmp_path_factory.mktemp("best"), _recipe()) / "data"


@pytest.fixture
def workspace(examples, tmp_path):
    (tmp_path / "data").symlink_to(examples)
    return tmp_path


def _files(workspace: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (workspace / "models/semantic").iterdir()}


def _metrics(workspace: Path) -> dict:
    return json.loads((workspace / "models/semantic/metrics.json").read_text())


def _measured(metrics: dict) -> dict[int, float]:
    """The held-out losses, by the steps after which they were measured."""
    return {point["step"]: point["holdout_loss"] for point in metrics["curve"] if point.get("holdout_loss") is not None}


class _Measuring:
    """A keeper that measures what the model would lose if training ended where it is told to save."""

    def __init__(self, recipe, workspace: Path) -> None:
        self._recipe, self._held_out = recipe, read_examples(recipe, workspace, "holdout")
        self.found: dict[int, float] = {}

    def resume(self, state):
        return None

    def save(self, state, besides):
        model = make_model(self._recipe, "semantic", self._held_out)
        model.load_state_dict(state.model.state_dict() | state.average)
        batches = held_out_batches(self._recipe, "semantic", self._held_out)
        self.found[state.step - 1] = float(held_out_loss(model, batches).mean())

    def finish(self):
        pass


def test_the_loss_that_is_measured_is_that_of_the_model_if_training_ended_there(workspace):
    """Of the weights rather than their average, or with dropout, it would be a loss of another model."""
    recipe = _recipe(evaluate_steps=4, checkpoint_steps=4)
    keeper = _Measuring(recipe, workspace)
    trained = step.train_stage("semantic", recipe, workspace, torch.device("cpu"), Workers(), keeper)
    told = _measured(trained.metrics)
    assert list(told) == MEASURED
    assert {number: told[number] for number in MEASURED[:-1]} == keeper.found
    assert told[MEASURED[-1]] == trained.metrics["holdout_loss"]


def test_measuring_changes_nothing_of_what_is_learnt(workspace):
    """Random numbers that it draws, or a model that it leaves in another mode, would be another training."""
    step.run("semantic", _recipe(), workspace)
    without, plain = _files(workspace), _metrics(workspace)
    step.run("semantic", _recipe(evaluate_steps=4), workspace)
    assert _files(workspace)["model.safetensors"] == without["model.safetensors"]
    measured = _metrics(workspace)
    for point in (*measured["curve"], *plain["curve"]):
        point.pop("holdout_loss", None)
    assert measured["curve"] == plain["curve"]


def test_the_model_is_that_of_the_lowest_loss_when_that_is_asked_for(workspace):
    """Trained for too long, the last weights know their examples by heart."""
    step.run("semantic", _recipe(evaluate_steps=4), workspace)
    last = _metrics(workspace)
    recipe = _recipe(evaluate_steps=4, keep_best=True)
    step.run("semantic", recipe, workspace)
    found = _metrics(workspace)
    told = _measured(found)
    assert found["curve"] == last["curve"] and found["best_step"] == min(told, key=told.__getitem__) < STEPS - 1
    assert found["holdout_loss"] == told[found["best_step"]] < last["holdout_loss"]
    batches = held_out_batches(recipe, "semantic", read_examples(recipe, workspace, "holdout"))
    model = load_stage(workspace / "models/semantic")
    assert float(held_out_loss(model, batches).mean()) == pytest.approx(found["holdout_loss"], rel=1e-6)


@pytest.fixture(scope="module")
def undisturbed(examples, tmp_path_factory) -> dict[str, bytes]:
    place = tmp_path_factory.mktemp("undisturbed")
    (place / "data").symlink_to(examples)
    step.run("semantic", _recipe(evaluate_steps=4, keep_best=True), place)
    return _files(place)


@pytest.mark.parametrize("last", [6, 13, 24])
def test_a_training_that_was_killed_knows_its_best_weights(workspace, undisturbed, last, capsys):
    """Those that only the dead process had are lost; they are lower than all that come after."""
    with dying_after(last):
        step.run("semantic", _recipe(evaluate_steps=4, keep_best=True), workspace)
    step.run("semantic", _recipe(evaluate_steps=4, keep_best=True), workspace)
    assert f"goes on after {(last + 1) // 5 * 5} steps" in capsys.readouterr().err
    assert _files(workspace) == undisturbed


@pytest.mark.parametrize("measurement", [1, 3, 7])
def test_who_is_asked_to_stop_while_it_measures_does_so_and_measures_later(
    workspace, undisturbed, measurement, monkeypatch
):
    """On a large catalogue it takes minutes, and SIGKILL follows after 30 s."""
    batches, begun = step.held_out_batches, []

    def asked(*arguments) -> Iterator:
        begun.append(1)
        if len(begun) == measurement:
            os.kill(os.getpid(), signal.SIGTERM)
        yield from batches(*arguments)

    recipe = _recipe(evaluate_steps=4, keep_best=True)
    with monkeypatch.context() as patched:
        patched.setattr(step, "held_out_batches", asked)
        steps = MEASURED[measurement - 1] + 1
        with pytest.raises(Interrupted, match=f"stopped after {steps} steps: start it again"):
            step.run("semantic", recipe, workspace)
    assert [path.name for path in (workspace / "checkpoints/semantic").iterdir()] == [f"step-{steps:08d}"]
    step.run("semantic", recipe, workspace)
    assert _files(workspace) == undisturbed


@pytest.mark.parametrize(
    ("changes", "key"), [({"evaluate_steps": -1}, "evaluate_steps"), ({"keep_best": True}, "keep")]
)
def test_values_that_mean_nothing_are_refused(changes, key):
    with pytest.raises(RecipeError, match=rf"stages\.semantic\.{key}"):
        _recipe(**changes)
