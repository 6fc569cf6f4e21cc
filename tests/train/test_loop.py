"""The training loop on models small enough that its promises can be checked in a moment."""

from dataclasses import replace
from itertools import repeat

import pytest
import tiny
import torch

from v2meow.config import STAGES
from v2meow.model.lm import TokenLM, stage_spec
from v2meow.train.batches import held_out_batches, make_batch, training_batches
from v2meow.train.loop import Batch, drop_conditions, held_out_loss, loss_of, train, train_step
from v2meow.train.optim import make_optimizer
from v2meow.train.step import make_model


def _fresh(stage, recipe, seed=0) -> TokenLM:
    torch.manual_seed(seed)
    return TokenLM(stage_spec(recipe, stage, (tiny.WIDTH,)))


@pytest.mark.parametrize("layout", ["delay", "flatten"])
@pytest.mark.parametrize("stage", STAGES)
def test_the_loss_falls_on_a_batch_that_is_seen_again_and_again(stage, layout):
    """A model that cannot learn two examples by heart learns nothing from thousands."""
    recipe = tiny.recipe({f"stages.{stage}.layout": layout})
    batch = make_batch(recipe, stage, tiny.examples(recipe, 2), torch.arange(2))
    config = replace(recipe.stage(stage), steps=80, learning_rate=0.02)
    reports = []
    train(_fresh(stage, recipe), repeat(batch), config, reports.append)
    bins = {"semantic": recipe.semantic_ids.clusters}.get(stage, recipe.codec.bins)
    assert reports[0].loss == pytest.approx(torch.tensor(bins).log().item(), rel=0.1)  # as good as guessing
    assert reports[-1].loss < 0.5 * reports[0].loss
    assert [report.step for report in reports] == list(range(80))


def _trained(stage, seed) -> dict[str, torch.Tensor]:
    recipe = tiny.recipe({"seed": seed, f"stages.{stage}.dropout": 0.1})
    examples = tiny.examples(recipe, 6)
    torch.manual_seed(seed)
    model = make_model(recipe, stage, examples)
    train(model, training_batches(recipe, stage, examples), recipe.stage(stage), lambda report: None)
    return model.state_dict()


@pytest.mark.parametrize("stage", STAGES)
def test_the_seed_alone_decides_the_weights_to_the_bit(stage):
    """Otherwise a model's hash says nothing about where it came from."""
    first, again, other = (_trained(stage, seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


@pytest.mark.parametrize(("drop_video", "drop_text"), [(0.1, 0.5), (0.0, 1.0)])
def test_conditions_are_dropped_as_often_as_the_recipe_says(drop_video, drop_text):
    """Guidance needs both kinds of rows; a share read the wrong way round drops nearly all of them."""
    config = replace(tiny.recipe().stages.semantic, drop_video=drop_video, drop_text=drop_text)
    batch = Batch(torch.zeros(20_000, 1, 1), tiny.inputs(tiny.model("semantic"), 1, 0.2)[1])
    given = drop_conditions(batch, config, torch.Generator().manual_seed(0)).conditions
    assert given.keep_video is not None and given.keep_text is not None
    assert (~given.keep_video).float().mean().item() == pytest.approx(drop_video, abs=0.015)
    assert (~given.keep_text).float().mean().item() == pytest.approx(drop_text, abs=0.015)
    neither = (~given.keep_video & ~given.keep_text).float().mean().item()
    assert neither == pytest.approx(drop_video * drop_text, abs=0.015)  # independent of each other


def test_the_held_out_loss_is_that_of_all_examples_however_they_are_batched():
    """A last, smaller batch must not count as much as a full one."""
    recipe = tiny.recipe()
    examples, model = tiny.examples(recipe, 6), tiny.model("coarse")  # batches of 4 and 2
    whole = loss_of(model, make_batch(recipe, "coarse", examples, torch.arange(6)))
    torch.testing.assert_close(held_out_loss(model, held_out_batches(recipe, "coarse", examples)), whole.detach())


def test_gradients_are_clipped_and_their_true_norm_is_told():
    """The curve of norms is where an instability shows first."""
    recipe = tiny.recipe()
    model, batch = tiny.model("fine"), make_batch(recipe, "fine", tiny.examples(recipe, 2), torch.arange(2))
    _, told = train_step(model, batch, make_optimizer(model, 0.0, 0.0), 0.01, bfloat16=False)
    left = torch.stack([parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]).norm()
    assert left.item() == pytest.approx(0.01, rel=1e-3)
    loss_of(model, batch).mean().backward()  # the same again, unclipped, on top of the clipped ones
    total = torch.stack(
        [parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]
    ).norm()
    assert told == pytest.approx(total.item() - 0.01, rel=1e-3)


def test_bfloat16_computes_nearly_the_same_loss_and_keeps_the_weights_whole():
    """Weights in bfloat16 would lose every small update."""
    recipe = tiny.recipe()
    model, batch = _fresh("coarse", recipe), make_batch(recipe, "coarse", tiny.examples(recipe, 2), torch.arange(2))
    exact = loss_of(model, batch).mean().item()
    loss, _ = train_step(model, batch, make_optimizer(model, 1e-3, 0.0), 1.0, bfloat16=True)
    assert loss == pytest.approx(exact, rel=0.02)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
