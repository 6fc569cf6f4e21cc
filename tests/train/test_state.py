"""Training's state comes apart and together again to the bit, and the average of weights is the one it should be."""

from contextlib import suppress
from dataclasses import replace
from itertools import islice

import pytest
import tiny
import torch

from v2meow.train.batches import training_batches
from v2meow.train.loop import train
from v2meow.train.state import TrainState
from v2meow.train.step import make_model

PEAK = 1e12


@pytest.fixture
def recipe():
    """Everything on that carries something from step to step."""
    changes = {"dropout": 0.3, "accumulate": 2, "ema": 0.9, "steps": 8}
    return tiny.recipe({f"stages.semantic.{key}": value for key, value in changes.items()})


def _fresh(recipe, seed=0) -> TrainState:
    torch.manual_seed(seed)
    return TrainState(make_model(recipe, "semantic", tiny.examples(recipe, 6)), recipe.stages.semantic)


def _train(recipe, state, steps, on_step=lambda report: None) -> None:
    batches = training_batches(recipe, "semantic", tiny.examples(recipe, 6), state.step)
    with suppress(_EndError):
        train(state, batches, recipe.stages.semantic, PEAK, _until(steps, on_step))


class _EndError(Exception):
    """A killed process, as far as a test in the same process can have one."""


def _until(steps, on_step):
    def count(report):
        on_step(report)
        if report.step + 1 == steps:
            raise _EndError

    return count


@pytest.mark.parametrize("killed_after", [1, 5])
def test_training_that_goes_on_ends_with_the_bits_of_training_that_never_stopped(recipe, killed_after):
    """Moments, average, dropout and the order of examples must all stand where they stood."""
    whole = _fresh(recipe)
    _train(recipe, whole, 99)
    killed = _fresh(recipe)
    _train(recipe, killed, killed_after)
    saved = {name: tensor.clone() for name, tensor in killed.tensors().items()}
    resumed = _fresh(recipe, seed=1)  # nothing of it may survive
    resumed.ready()
    for name, tensor in resumed.tensors().items():
        tensor.copy_(saved[name])
    resumed.step = killed.step
    _train(recipe, resumed, 99)
    expected, found = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    moments = whole.tensors()
    assert all(torch.equal(tensor, moments[name]) for name, tensor in resumed.tensors().items())


def test_the_average_is_that_of_its_formula_and_becomes_the_model(recipe):
    """The decay that begins low forgets the random start; the model that is saved must be the average."""
    state = _fresh(recipe)
    expected = state.model.head.weight.detach().clone()
    last = []

    def follow(report):
        decay = min(0.9, (1 + report.step) / (10 + report.step))
        expected.mul_(decay).add_(state.model.head.weight.detach(), alpha=1 - decay)
        last[:] = [state.model.head.weight.detach().clone()]

    _train(recipe, state, 99, follow)
    torch.testing.assert_close(state.model.head.weight.detach(), expected)
    assert not torch.equal(state.model.head.weight, last[0])


def test_without_an_average_the_last_weights_are_the_model(recipe):
    config = replace(recipe.stages.semantic, ema=0.0)
    torch.manual_seed(0)
    state = TrainState(make_model(recipe, "semantic", tiny.examples(recipe, 6)), config)
    assert state.average == {}
    last = []
    batches = islice(training_batches(recipe, "semantic", tiny.examples(recipe, 6)), config.steps)
    train(state, batches, config, PEAK, lambda report: last.append(state.model.head.weight.detach().clone()))
    assert torch.equal(state.model.head.weight, last[-1])
