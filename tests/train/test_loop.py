"""The training loop on models small enough that its promises can be checked in a moment."""

from dataclasses import replace
from itertools import repeat

import pytest
import tiny
import torch

from v2meow.config import STAGES
from v2meow.model.lm import TokenLM, stage_spec
from v2meow.train.batches import held_out_batches, hide, make_batch, training_batches
from v2meow.train.loop import Batch, drop_conditions, held_out_loss, loss_of, train, train_step
from v2meow.train.optim import make_optimizer
from v2meow.train.spikes import TrainingError
from v2meow.train.state import TrainState
from v2meow.train.step import make_model

PEAK = 1e12  # FLOP/s of an invented device


def _fresh(stage, recipe, seed=0) -> TokenLM:
    torch.manual_seed(seed)
    return TokenLM(stage_spec(recipe, stage, visual_widths=(tiny.WIDTH,), joint_width=tiny.JOINT_WIDTH))


@pytest.mark.parametrize("layout", ["delay", "flatten"])
@pytest.mark.parametrize("stage", STAGES)
def test_the_loss_falls_on_a_batch_that_is_seen_again_and_again(stage, layout):
    """A model that cannot learn two examples by heart learns nothing from thousands."""
    recipe = tiny.recipe({f"stages.{stage}.layout": layout})
    batch = make_batch(recipe, stage, tiny.examples(recipe, 2), torch.arange(2))
    config = replace(recipe.stage(stage), steps=80, learning_rate=0.02)
    reports = []
    train(TrainState(_fresh(stage, recipe), config), repeat(batch), config, PEAK, reports.append)
    bins = {"semantic": recipe.semantic_ids.clusters}.get(stage, recipe.codec.bins)
    assert reports[0].loss == pytest.approx(torch.tensor(bins).log().item(), rel=0.1)  # as good as guessing
    assert reports[-1].loss < 0.5 * reports[0].loss
    assert [report.step for report in reports] == list(range(80))


def _trained(stage, seed) -> dict[str, torch.Tensor]:
    recipe = tiny.recipe({"seed": seed, f"stages.{stage}.dropout": 0.1})
    examples = tiny.examples(recipe, 6)
    torch.manual_seed(seed)
    state = TrainState(make_model(recipe, stage, examples), recipe.stage(stage))
    train(state, training_batches(recipe, stage, examples), recipe.stage(stage), PEAK, lambda report: None)
    return state.model.state_dict()


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


@pytest.mark.parametrize("levels", [(0, 1, 0), (1, 1, 1)])
def test_only_hidden_codes_of_the_level_at_hand_are_learnt(levels):
    """Visible ones are copied, and higher ones depend on what is not there yet; neither may drown what is to be learnt.

    Of three examples all may be at one level: the other one then has no loss, rather than none that is a number.
    """
    model, random = tiny.model("fine", "parallel"), torch.Generator().manual_seed(0)
    codes, given = tiny.inputs(model, 3, 0.4)
    hidden = torch.stack([hide(level, 2, codes.shape[2], random) for level in levels])
    found = loss_of(model, Batch(codes, given, hidden))
    logits, expected = model(codes, given, hidden).log_softmax(-1), torch.zeros(2)
    for row, level in enumerate(levels):
        frames = hidden[row, level].nonzero().flatten().tolist()
        told = [-logits[row, frame, level, codes[row, level, frame]] for frame in frames]
        expected[level] += 2 / 3 * torch.stack(told).mean()
    torch.testing.assert_close(found, expected)


def test_the_held_out_loss_of_a_level_is_the_mean_over_all_examples_at_it():
    """Read off whatever levels were drawn, levels and runs could not be compared."""
    recipe = tiny.recipe(tiny.laid_out("coarse", "parallel"))
    examples, model = tiny.examples(recipe, 6), tiny.model("coarse", "parallel")  # batches of 4 and 2
    batches = list(held_out_batches(recipe, "coarse", examples))
    singles = [loss_of(model, single) / 2 for batch in batches for single in batch.split(len(batch.codes))]
    by_level = torch.stack(singles).detach().T  # each example is at one level, and has nought at the other
    assert (by_level > 0).sum(1).tolist() == [6, 6]
    torch.testing.assert_close(held_out_loss(model, iter(batches)), by_level.sum(1) / 6)


def test_gradients_are_clipped_and_their_true_norm_is_told():
    """The curve of norms is where an instability shows first."""
    recipe = tiny.recipe()
    model, batch = tiny.model("fine"), make_batch(recipe, "fine", tiny.examples(recipe, 2), torch.arange(2))
    config = replace(recipe.stages.fine, clip_norm=0.01)
    _, told, _ = train_step(model, batch, make_optimizer(model, 0.0, 0.0), config)
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
    config = replace(recipe.stages.coarse, bfloat16=True)
    loss, *_ = train_step(model, batch, make_optimizer(model, 1e-3, 0.0), config)
    assert loss.mean().item() == pytest.approx(exact, rel=0.02)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("stage", "layout"), [*((stage, "delay") for stage in STAGES), ("coarse", "parallel"), ("fine", "parallel")]
)
def test_a_step_in_parts_is_the_step_at_once(stage, layout):
    """Parts that are summed instead of averaged, or clipped one by one, train at another rate than the recipe says."""
    recipe = tiny.recipe(tiny.laid_out(stage, layout))
    batch = next(training_batches(recipe, stage, tiny.examples(recipe, 6)))  # with dropped conditions
    results = []
    for parts in (1, 2, 4):
        config = replace(recipe.stage(stage), accumulate=parts, clip_norm=0.1)
        model = _fresh(stage, recipe)
        results.append((train_step(model, batch, make_optimizer(model, 0.0, 0.0), config), model))
    (whole, model), *others = results
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for (losses, norm, _), other in others:
        torch.testing.assert_close(losses, whole[0])
        assert norm == pytest.approx(whole[1], rel=1e-5)
        for name, parameter in other.named_parameters():
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-7)


def test_a_batch_is_split_into_its_own_rows_with_their_conditions():
    """A part whose pictures belong to other rows teaches that pictures mean nothing."""
    recipe = tiny.recipe()
    batch = next(training_batches(recipe, "semantic", tiny.examples(recipe, 6)))
    parts = batch.split(2)
    assert [len(part.codes) for part in parts] == [2, 2]
    assert torch.equal(torch.cat([part.codes for part in parts]), batch.codes)
    assert torch.equal(torch.cat([part.conditions.visual[0] for part in parts]), batch.conditions.visual[0])
    for name in ("joint", "keep_video", "keep_text"):
        rows = [getattr(part.conditions, name) for part in parts]
        assert torch.equal(torch.cat(rows), getattr(batch.conditions, name))
    assert parts[0].conditions.prefix is None


def test_a_loss_that_is_no_number_ends_training_at_its_step():
    """Later it could not be told from a bad recipe, and every later checkpoint would hold it."""
    recipe = tiny.recipe()
    state = TrainState(_fresh("coarse", recipe), recipe.stages.coarse)
    told = []

    def poison(report):
        told.append(report.step)
        if report.step == 1:
            state.model.head.weight.data[0, 0] = torch.nan

    batches = training_batches(recipe, "coarse", tiny.examples(recipe, 6))
    message = r"^train coarse: the loss is nan at step 2: lower stages\.coarse\.learning_rate$"
    with pytest.raises(TrainingError, match=message):
        train(state, batches, recipe.stages.coarse, PEAK, poison)
    assert told == [0, 1]  # whoever saves does so when told, and so never saves this one


def test_a_gradient_that_is_no_number_ends_training_although_the_loss_is_one():
    """It would ruin the weights: the loss shows it one step, and perhaps one checkpoint, too late."""
    recipe = tiny.recipe()
    state = TrainState(_fresh("fine", recipe), recipe.stages.fine)
    state.model.head.weight.register_hook(lambda gradient: gradient * torch.inf)
    batches = training_batches(recipe, "fine", tiny.examples(recipe, 6))
    with pytest.raises(TrainingError, match=r"the gradient norm is (nan|inf) at step 0"):
        train(state, batches, recipe.stages.fine, PEAK, lambda report: pytest.fail("was told of a ruined step"))


def test_speed_counts_the_codes_that_are_learnt_and_the_wait_for_them(monkeypatch):
    """Prefix ids are no work done, and a loader that is too slow must show."""
    clock = iter((10.0, 10.5, 12.0))
    monkeypatch.setattr("v2meow.train.loop.time.perf_counter", lambda: next(clock))
    recipe = tiny.recipe()
    config = replace(recipe.stages.coarse, steps=1)
    reports = []
    batches = training_batches(recipe, "coarse", tiny.examples(recipe, 6))
    train(TrainState(_fresh("coarse", recipe), config), batches, config, PEAK, reports.append)
    assert reports[0].tokens_s == 4 * 2 * 100 / 2.0  # rows, levels, frames; seconds
    assert 0 < reports[0].mfu < 1 and reports[0].waited == 0.25
