"""Spikes: which updates are made, and that a training that was killed or went back ends with the same bytes."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from catalogues import dying_after, write_examples
from events import shown
from torch.multiprocessing.spawn import spawn

from v2meow.config import RecipeError, TrainConfig
from v2meow.train import course, step
from v2meow.train.batches import training_batches
from v2meow.train.loop import train
from v2meow.train.spikes import IN_A_ROW, RollBack, SpikeGuard, TrainingError
from v2meow.train.state import TrainState
from v2meow.train.step import make_model
from v2meow.train.workers import Workers, whole

CHANGES = {
    "stages.semantic.steps": 30,
    "stages.semantic.max_epochs": 100,
    "stages.semantic.dropout": 0.2,
    "stages.semantic.ema": 0.9,
    "stages.semantic.checkpoint_steps": 4,
    "stages.semantic.drop_video": 0.0,
}


def _recipe(on_spike: str, factor: float = 0.0):
    return tiny.recipe(CHANGES | {"train.on_spike": on_spike, "train.spike_factor": factor})


class _Poisoned:
    """Batches and models as they are, but some steps' pictures are no numbers, or their gradient is many times larger.

    Large pictures alone are normalised away.
    """

    def __init__(self, poisons: dict[int, float]) -> None:
        self._poisons, self._step = poisons, 0

    def batches(self, recipe, stage, examples, first_step=0):
        for self._step, batch in enumerate(training_batches(recipe, stage, examples, first_step), first_step):
            if math.isnan(self._poisons.get(self._step, 0.0)):
                visual = tuple(features * math.nan for features in batch.conditions.visual)
                batch.conditions = replace(batch.conditions, visual=visual)
            yield batch

    def model(self, *arguments):
        model = make_model(*arguments)
        model.head.weight.register_hook(lambda gradient: gradient * self._poisons.get(self._step, 1.0))
        return model


def _files(workspace: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (workspace / "models/semantic").iterdir()}


def _curve(workspace: Path) -> list[dict]:
    return json.loads((workspace / "models/semantic/metrics.json").read_text())["curve"]


@pytest.fixture
def workspace(tmp_path):
    return write_examples(tmp_path, _recipe("stop"))


@pytest.fixture
def poisoned(monkeypatch):
    """A function that poisons these steps of whatever is trained from then on."""

    def poison(poisons: dict[int, float]) -> None:
        poisoned = _Poisoned(poisons)
        monkeypatch.setattr(step, "training_batches", poisoned.batches)
        monkeypatch.setattr(step, "make_model", poisoned.model)

    return poison


def _state(recipe) -> TrainState:
    torch.manual_seed(0)
    model = make_model(recipe, "semantic", tiny.examples(recipe, 6))
    return TrainState(model, recipe.stages.semantic)


def test_a_skipped_step_leaves_weights_moments_and_average_as_they_were():
    """Adam's moments forget a NaN never, and a weight that is one ruins all others a step later."""
    recipe = _recipe("skip")
    config, state, seen = replace(recipe.stages.semantic, steps=3), _state(recipe), {}

    def on_step(report):
        seen[report.step] = report.skipped, {name: tensor.clone() for name, tensor in state.tensors().items()}

    batches = _Poisoned({1: math.nan}).batches(recipe, "semantic", tiny.examples(recipe, 6))
    train(state, batches, config, 1e12, on_step, guard=SpikeGuard("semantic", recipe.train))
    assert [skipped for skipped, _ in seen.values()] == [False, True, False]
    (_, before), (_, left_out), (_, after) = seen.values()
    assert before.keys() == left_out.keys() and any("exp_avg_sq" in name for name in before)
    assert all(torch.equal(before[name], left_out[name]) for name in before)
    assert not torch.equal(before["model.head.weight"], after["model.head.weight"])


def test_training_stops_before_the_weights_are_ruined():
    """What a person looks at afterwards, and any checkpoint, is the model that met the spike."""
    recipe = _recipe("stop")
    state = _state(recipe)
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    state.model.head.weight.register_hook(lambda gradient: gradient * torch.inf)
    batches = training_batches(recipe, "semantic", tiny.examples(recipe, 6))
    with pytest.raises(TrainingError, match=r"^train semantic: the gradient norm is (nan|inf) at step 0: lower stages"):
        train(state, batches, recipe.stages.semantic, 1e12, lambda report: None)
    assert all(torch.equal(before[name], tensor) for name, tensor in state.model.state_dict().items())


def test_stop_ends_the_step_at_its_spike_and_going_on_under_another_policy_keeps_the_work(workspace, poisoned, capsys):
    """A week of training is not thrown away, only because the policy is chosen after the first spike."""
    poisoned({9: math.nan})
    with pytest.raises(TrainingError, match=r"^train semantic: the loss is nan at step 9: lower stages\.semantic"):
        step.run("semantic", _recipe("stop"), workspace)
    step.run("semantic", _recipe("skip"), workspace)
    assert "train semantic goes on after 8 steps" in capsys.readouterr().err
    gone_on = _files(workspace)
    step.run("semantic", _recipe("skip"), workspace)
    assert _files(workspace) == gone_on
    assert [point["step"] for point in _curve(workspace) if point.get("skipped")] == [9]
    left_out = _curve(workspace)[9]
    assert left_out.pop("learning_rate") > 0
    figures = dict.fromkeys(("loss", "loss_level_0", "gradient_norm"))
    assert left_out == {"step": 9, "skipped": True, **figures}


def test_a_gradient_far_above_the_usual_one_is_a_spike(workspace, poisoned):
    """A loss that is still a number may have thrown away days: large gradients come first."""
    poisoned({5: 1e4, 25: 1e4})
    step.run("semantic", _recipe("skip", factor=5.0), workspace)
    skipped = [point for point in _curve(workspace) if point.get("skipped")]
    assert [point["step"] for point in skipped] == [25]  # at step 5 nobody knows what is usual
    norms = sorted(point["gradient_norm"] for point in _curve(workspace)[:25])
    assert skipped[0]["gradient_norm"] > 5 * norms[12]
    with pytest.raises(TrainingError, match=r"the gradient norm is \S+, usually \S+, at step 25: lower"):
        step.run("semantic", _recipe("stop", factor=5.0), workspace)


@pytest.mark.parametrize("poison", [{2: math.nan}, {21: math.nan, 22: 1e4, 27: 1e4}])
def test_going_back_ends_where_a_training_ends_that_skipped_that_update(workspace, poisoned, poison, monkeypatch):
    """From the beginning, where there is no checkpoint yet, and from the newest one, several times."""
    poisoned(poison)
    step.run("semantic", _recipe("skip", factor=5.0), workspace)
    skipped = _files(workspace)
    made = []
    keep = course.ReturnPoint.restore
    monkeypatch.setattr(course.ReturnPoint, "restore", lambda self, state: (keep(self, state), made.append(state.step)))
    step.run("semantic", _recipe("roll back", factor=5.0), workspace)
    assert made == [number // 4 * 4 for number in poison]
    assert [point["step"] for point in _curve(workspace) if point.get("skipped")] == list(poison)
    assert _files(workspace) == skipped
    assert [number for number, _ in shown(workspace / "logs/semantic")["learning_rate"]] == list(range(30))


def test_going_back_mends_a_state_that_was_damaged(workspace, poisoned, monkeypatch):
    """A bit that flips in a weight ruins every later step: skipping them all helps nothing."""
    poisoned({7: math.nan})
    step.run("semantic", _recipe("skip"), workspace)
    expected = _files(workspace)["model.safetensors"]
    poisoned({})
    whole, damaged = course.train, []

    def damaging(state, batches, config, peak, on_step, *rest):
        def then(report):
            on_step(report)
            if report.step == 6 and not damaged:
                damaged.append(state.model.head.weight.data[0, 0].fill_(torch.nan))

        whole(state, batches, config, peak, then, *rest)

    monkeypatch.setattr(course, "train", damaging)
    step.run("semantic", _recipe("roll back"), workspace)
    assert damaged and [point["step"] for point in _curve(workspace) if point.get("skipped")] == [7]
    assert _files(workspace)["model.safetensors"] == expected


@pytest.mark.parametrize("policy", ["skip", "roll back"])
@pytest.mark.parametrize("last", [23, 25])
def test_killed_around_spikes_and_resumed_is_the_undisturbed_training(workspace, poisoned, policy, last):
    """What the guard remembers, such as the usual norm, must come back with the checkpoint."""
    poisoned({3: math.nan, 22: 1e4, 23: 1e4, 26: 1e4})
    step.run("semantic", _recipe(policy, factor=5.0), workspace)
    undisturbed = _files(workspace)
    assert [point["step"] for point in _curve(workspace) if point.get("skipped")] == [3, 22, 23, 26]

    with dying_after(last):
        step.run("semantic", _recipe(policy, factor=5.0), workspace)
    assert any((workspace / "checkpoints/semantic").glob("step-*"))
    step.run("semantic", _recipe(policy, factor=5.0), workspace)
    assert _files(workspace) == undisturbed


class _Forgetful:
    """Keeps nothing: going back ends at the beginning."""

    def resume(self, state):
        return None

    def save(self, state, besides):
        pass

    def finish(self):
        pass


def _together(rank: int, folder: Path) -> None:
    """What each of two workers does: train under both policies, and write down the weights."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    poisoned = _Poisoned({2: math.nan, 5: math.nan})
    step.training_batches, step.make_model = poisoned.batches, poisoned.model  # of this process, which ends here
    for strategy in ("ddp", "fsdp"):
        for policy in ("skip", "roll back"):
            best = {"stages.semantic.evaluate_steps": 2, "stages.semantic.keep_best": True}
            recipe = tiny.recipe(CHANGES | best | {"stages.semantic.steps": 7, "train.on_spike": policy})
            workers = Workers(strategy)
            trained = step.train_stage("semantic", recipe, folder, torch.device("cpu"), workers, _Forgetful())
            weights = {name: whole(tensor) for name, tensor in trained.model.state_dict().items()}
            curve = trained.metrics["curve"]
            told = [point["step"] for point in curve if point.get("skipped")]
            assert [point["step"] for point in curve if point.get("holdout_loss") is not None] == [1, 3, 5, 6]
            torch.save((weights, told), folder / f"{strategy}-{policy}-{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_workers_leave_out_the_same_updates_and_go_back_together(workspace):
    """One that goes back alone waits for the others for ever; under fsdp each holds a part of what is restored."""
    spawn(_together, (workspace,), nprocs=2)
    for strategy in ("ddp", "fsdp"):
        results = [
            torch.load(workspace / f"{strategy}-{policy}-{rank}.pt", weights_only=True)
            for policy in ("skip", "roll back")
            for rank in (0, 1)
        ]
        assert all(told == [2, 5] for _, told in results)
        for weights, _ in results[1:]:
            assert all(torch.equal(tensor, results[0][0][name]) for name, tensor in weights.items())


def test_more_than_ten_in_a_row_end_training(workspace, poisoned):
    """A model that never learns again would else be trained to the end, and shipped."""
    poisoned(dict.fromkeys(range(4, 4 + IN_A_ROW), math.nan))
    for policy in ("skip", "roll back"):
        step.run("semantic", _recipe(policy), workspace)
        assert sum(point.get("skipped", False) for point in _curve(workspace)) == IN_A_ROW
    poisoned(dict.fromkeys(range(4, 5 + IN_A_ROW), math.nan))
    for policy in ("skip", "roll back"):
        with pytest.raises(
            TrainingError, match=r"the loss is nan at step 14, after 10 updates that were left out: low"
        ):
            step.run("semantic", _recipe(policy), workspace)


def test_the_usual_norm_is_the_median_of_the_last_hundred_updates_alone():
    """Norms fall in training: an early measure misses every later spike; left out ones are none of the usual."""
    guard = SpikeGuard("coarse", TrainConfig(on_spike="skip", spike_factor=3.0))
    norms = [100.0] * 30 + [1.0] * 100
    assert all(guard.accepts(number, 1.0, norm) for number, norm in enumerate(norms))
    assert not guard.accepts(130, 1.0, 3.1)
    assert guard.accepts(131, 1.0, 2.9)
    fresh = SpikeGuard("coarse", TrainConfig(on_spike="skip", spike_factor=3.0))
    assert [fresh.accepts(number, 1.0, 1.0 if number < 19 else 50.0) for number in range(21)] == [True] * 20 + [False]


def test_a_curve_that_another_policy_made_is_not_gone_on_from():
    """The weights would be those of neither recipe."""
    curve = [{"step": number, "loss": 1.0, "gradient_norm": 1.0} for number in range(25)]
    large = {"step": 25, "loss": 1.0, "gradient_norm": 9.0}

    def follows(policy, factor, *points):
        return SpikeGuard("fine", TrainConfig(on_spike=policy, spike_factor=factor)).follow([*curve, *points])

    assert follows("stop", 0.0, large) and follows("skip", 10.0, large) and not follows("stop", 5.0, large)
    skipped = large | {"skipped": True}
    assert follows("skip", 5.0, skipped) and follows("roll back", 5.0, skipped)
    assert not follows("skip", 10.0, skipped) and not follows("stop", 5.0, skipped)
    nan = {"step": 25, "loss": None, "gradient_norm": None, "skipped": True}
    assert follows("skip", 0.0, nan) and not follows("stop", 0.0, nan)


def test_a_training_under_another_factor_starts_afresh_and_says_so(workspace, poisoned, capsys):
    poisoned({22: 1e4, 28: math.nan})
    with pytest.raises(TrainingError):
        step.run("semantic", _recipe("stop"), workspace)
    step.run("semantic", _recipe("skip", factor=5.0), workspace)
    assert "train semantic starts afresh: train.on_spike or spike_factor was another" in capsys.readouterr().err
    assert [point["step"] for point in _curve(workspace)] == list(range(30))
    afresh = _files(workspace)
    step.run("semantic", _recipe("skip", factor=5.0), workspace)
    assert _files(workspace) == afresh


def test_who_cannot_go_back_is_told_where_it_should():
    recipe = _recipe("roll back")
    batches = _Poisoned({1: math.nan}).batches(recipe, "semantic", tiny.examples(recipe, 6))
    guard = SpikeGuard("semantic", recipe.train)
    with pytest.raises(RollBack) as told:
        train(_state(recipe), batches, recipe.stages.semantic, 1e12, lambda report: None, guard=guard)
    assert told.value.step == 1


@pytest.mark.parametrize(("key", "value"), [("spike_factor", 0.5), ("spike_factor", -1.0), ("on_spike", "ignore")])
def test_a_policy_that_means_nothing_is_refused(key, value):
    with pytest.raises(RecipeError, match=rf"train\.{key}"):
        tiny.recipe({f"train.{key}": value})
