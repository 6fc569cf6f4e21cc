"""Recomputed and compiled blocks give the losses and gradients of plain ones, and leave no trace."""

import shutil
from dataclasses import replace
from functools import partial

import pytest
import tiny
import torch

from v2meow.config import STAGES
from v2meow.train.batches import training_batches
from v2meow.train.loop import loss_of
from v2meow.train.wrap import wrapped


def _gradients(stage, **changes):
    """Loss and gradients of one batch, with dropout on, from the same random stream each time."""
    recipe = tiny.recipe({f"stages.{stage}.dropout": 0.2})
    model = tiny.model(stage).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.2
    batch = next(training_batches(recipe, stage, tiny.examples(recipe, 6)))
    torch.manual_seed(7)
    with wrapped(model, replace(recipe.stage(stage), **changes)):
        loss = loss_of(model, batch).mean()
        loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert len(gradients) == len(list(model.parameters()))
    return loss.detach(), gradients


@pytest.mark.parametrize("stage", STAGES)
def test_recomputed_activations_give_the_same_gradients_to_the_bit(stage):
    """Dropout that is drawn anew in the second pass would give gradients of another model."""
    loss, gradients = _gradients(stage)
    again, found = _gradients(stage, checkpoint_activations=True)
    assert torch.equal(again, loss)
    assert all(torch.equal(found[name], gradients[name]) for name in gradients)


def test_recomputed_activations_are_not_kept():
    """A wrapper that keeps them all the same costs time and saves nothing."""
    kept = {}
    for recompute in (False, True):
        recipe = tiny.recipe()
        model = tiny.model("coarse").train()
        batch = next(training_batches(recipe, "coarse", tiny.examples(recipe, 6)))
        saved = []
        pack = torch.autograd.graph.saved_tensors_hooks(
            lambda t, saved=saved: saved.append(t.numel()) or t, lambda t: t
        )
        with wrapped(model, replace(recipe.stages.coarse, checkpoint_activations=recompute)), pack:
            loss_of(model, batch)
        kept[recompute] = sum(saved)
    assert kept[True] < 0.7 * kept[False]


_NO_COMPILER = pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=[pytest.mark.long, _NO_COMPILER])])
def test_compiled_blocks_give_the_same_gradients(backend, monkeypatch, tmp_path):
    """Also where they are recomputed, and with a memory that is no tensor. C++ takes a minute: graphs show as much."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    recipe = tiny.recipe()
    batch = next(training_batches(recipe, "semantic", tiny.examples(recipe, 6)))
    found = []
    for compiled in (False, True):
        model = tiny.model("semantic").train()
        config = replace(recipe.stages.semantic, compile=compiled, checkpoint_activations=compiled)
        with wrapped(model, config):
            loss_of(model, batch).mean().backward()
        found.append([parameter.grad for parameter in model.parameters()])
    for plain, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-3, atol=1e-5)


def test_nothing_is_left_on_the_model():
    """A wrapper that stays would recompute while decoding, and would be saved by nobody."""
    recipe = tiny.recipe()
    model = tiny.model("semantic")
    names = list(model.state_dict())
    with pytest.raises(ZeroDivisionError), wrapped(model, replace(recipe.stages.semantic, checkpoint_activations=True)):
        assert list(model.state_dict()) == names
        raise ZeroDivisionError
    assert not any("forward" in vars(block) for block in [*model.blocks, *model.encoder])
