"""Several processes train what one would: losses, weights and checkpoints, over a real process group.

One start of three processes does it all, because importing torch is what takes time: two of them train, then all three,
by each strategy. They leave what they found in files, and the tests compare.
"""

import io
import shutil
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.tensor import DTensor
from torch.multiprocessing.spawn import spawn

from v2meow.config import StageName, Strategy
from v2meow.train import checkpoint
from v2meow.train.batches import held_out_batches, training_batches
from v2meow.train.loop import StepReport, held_out_loss, train
from v2meow.train.state import TrainState
from v2meow.train.step import make_model
from v2meow.train.workers import Workers, whole

pytestmark = pytest.mark.slow
PEAK = 1e12  # FLOP/s of an invented device
STEPS, SAVED_AFTER = 4, 2
# Eight rows in four passes: two workers make two passes of two rows, three workers parts of 2, 3 and 3 rows.
COMMON = {"batch": 8, "accumulate": 4, "ema": 0.9, "steps": STEPS, "clip_norm": 0.5}


@dataclass(frozen=True)
class Task:
    """What is trained: together they have an encoder, cross-attention, a prefix, hidden codes, recomputed blocks."""

    stage: StageName
    layout: str
    checkpoint_activations: bool = False
    dropout: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.stage}-{self.layout}-{self.dropout:g}"

    @property
    def recipe(self):
        own = {"checkpoint_activations": self.checkpoint_activations, "dropout": self.dropout}
        changes = {f"stages.{self.stage}.{key}": value for key, value in (COMMON | own).items()}
        return tiny.recipe(tiny.laid_out(self.stage, self.layout) | changes)


TASKS = (Task("semantic", "delay"), Task("coarse", "parallel", checkpoint_activations=True))
RESUMED = TASKS[0]
RANDOM = Task("semantic", "delay", dropout=0.2)
STRATEGIES: tuple[Strategy, ...] = ("ddp", "fsdp")
TOGETHER: list[tuple[int, Strategy]] = [(size, strategy) for size in (2, 3) for strategy in STRATEGIES]


def _state(task: Task, workers: Workers) -> TrainState:
    torch.manual_seed(0)
    model = make_model(task.recipe, task.stage, tiny.examples(task.recipe, 12))
    workers.place(model)
    return TrainState(model, task.recipe.stage(task.stage))


def _train(task: Task, workers: Workers, resume: Path | None = None, save: Path | None = None) -> dict:
    """Train to the end, from a checkpoint or from the start, with a checkpoint in between; what there is to compare."""
    state, examples, reports = _state(task, workers), tiny.examples(task.recipe, 12), list[StepReport]()
    besides = checkpoint.read(resume, state, "work") if resume else None

    def on_step(report: StepReport) -> None:
        reports.append(report)
        if save and state.step == SAVED_AFTER:
            for folder in (save / "one", save / f"own-{workers.rank}"):
                folder.mkdir(parents=True, exist_ok=True)
                checkpoint.write(folder, state.tensors(), "work", state.step, f"told by {workers.rank}", workers)

    batches = training_batches(task.recipe, task.stage, examples, state.step)
    train(state, batches, task.recipe.stage(task.stage), PEAK, on_step, workers)
    held_out = held_out_loss(state.model, held_out_batches(task.recipe, task.stage, examples))
    return {
        "losses": torch.tensor([report.loss_by_level for report in reports]),
        "norms": torch.tensor([report.gradient_norm for report in reports]),
        "held_out": held_out,
        "weights": {name: whole(tensor) for name, tensor in state.model.state_dict().items()},
        "kept": sum(_here(tensor).numel() for tensor in state.tensors().values()),
        "besides": besides,
    }


def _here(tensor: Tensor) -> Tensor:
    """What this process holds of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@contextmanager
def _group(rank: int, size: int, meeting: Path):
    """The default process group of the first `size` processes."""
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _work(rank: int, folder: Path) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    for size, strategy in TOGETHER:
        if rank < size:
            with _group(rank, size, folder / f"meeting-{size}-{strategy}"):
                _work_together(Workers(strategy), folder)


def _work_together(workers: Workers, folder: Path) -> None:
    here = folder / f"{workers.size}-{workers.strategy}"
    for task in (*TASKS, RANDOM):
        _keep(here, task.name, workers, _train(task, workers, save=here / task.name))
    again = _train(RANDOM, workers, resume=here / RANDOM.name / "one")
    _keep(here, f"{RANDOM.name}-resumed", workers, again)
    if workers.size == 2:
        _keep(here, "damaged-for-one", workers, _resume_where_one_is_damaged(workers, here))
        return
    for strategy in STRATEGIES:
        written = folder / f"2-{strategy}" / RESUMED.name
        _keep(here, f"{RESUMED.name}-from-{strategy}", workers, _train(RESUMED, workers, resume=written / "one"))


def _resume_where_one_is_damaged(workers: Workers, here: Path) -> dict:
    """What each worker goes on from: the newer checkpoint is whole for the first only, the oldest is of other work."""
    older, newer = here / RESUMED.name / "one", here / f"newer-{workers.rank}"
    shutil.copytree(older, newer)
    if workers.rank == 1:
        (shard, *_) = newer.glob("*.safetensors")
        shard.write_bytes(shard.read_bytes()[:-9])
    state, said = _state(RESUMED, workers), io.StringIO()
    with redirect_stderr(said):
        besides = checkpoint.read_newest(map(nullcontext, (newer, older)), state, "work", workers)
    refused = []
    for places, work in (((newer,), "work"), ((older,), f"other for {workers.rank}"), ((), "work")):
        try:
            refused.append(str(checkpoint.read_newest(map(nullcontext, places), state, work, workers)))
        except checkpoint.CheckpointError as error:
            refused.append(str(error))
    return {"step": state.step, "besides": besides, "said": said.getvalue(), "refused": refused}


def _keep(folder: Path, name: str, workers: Workers, found: dict) -> None:
    torch.save(found, folder / f"{name}-{workers.rank}.pt")


def _found(folder: Path, name: str, rank: int = 0) -> dict:
    return torch.load(folder / f"{name}-{rank}.pt", weights_only=True)


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> Path:
    """What two and three workers left."""
    folder = tmp_path_factory.mktemp("together")
    spawn(_work, (folder,), nprocs=3)
    return folder


@pytest.fixture(scope="module")
def alone() -> dict[str, dict]:
    """What one worker finds."""
    return {task.name: _train(task, Workers()) for task in TASKS}


def _assert_same(found: dict, expected: dict, first: int = 0) -> None:
    """Equal but for how sums are rounded, from step `first` on."""
    for name in ("losses", "norms"):
        torch.testing.assert_close(found[name], expected[name][first:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found["held_out"], expected["held_out"], rtol=1e-5, atol=1e-5)
    assert found["weights"].keys() == expected["weights"].keys()
    for name, weight in expected["weights"].items():  # AdamW divides small gradients by as small ones
        torch.testing.assert_close(found["weights"][name], weight, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize(("size", "strategy"), TOGETHER)
def test_workers_learn_what_one_would(together, alone, size, strategy, task):
    """Gradients that are summed, of uneven parts weighed alike or averaged before the last pass train another model."""
    for rank in range(size):
        _assert_same(_found(together / f"{size}-{strategy}", task.name, rank), alone[task.name])


def test_the_comparison_would_see_a_worker_whose_part_is_missing(alone):
    """Weights that hardly move would pass for equal whatever was learnt."""
    for task in TASKS:
        fresh = _state(task, Workers()).model.state_dict()
        moved = [(alone[task.name]["weights"][name] - weight).abs().max() for name, weight in fresh.items()]
        assert sum(distance > 1e-3 for distance in moved) > len(moved) / 2


@pytest.mark.parametrize("size", [2, 3])
def test_fsdp_keeps_a_part_of_everything_in_each_worker(together, alone, size):
    """A weight that is left out of the parts fills every GPU."""
    for task in TASKS:
        kept = [_found(together / f"{size}-fsdp", task.name, rank)["kept"] for rank in range(size)]
        assert max(kept) < 1.05 * alone[task.name]["kept"] / size


@pytest.mark.parametrize("written_by", STRATEGIES)
@pytest.mark.parametrize("folder", ["one", "own"])
def test_one_worker_goes_on_from_what_two_have_written(together, alone, written_by, folder, tmp_path):
    """Into one folder that both see, or each into its own, whose files a storage then puts together."""
    for task in TASKS:
        written, merged = together / f"2-{written_by}" / task.name, tmp_path / task.name
        for part in [written / "one"] if folder == "one" else [written / "own-0", written / "own-1"]:
            shutil.copytree(part, merged, dirs_exist_ok=True)
        found = _train(task, Workers(), resume=merged)
        assert found["besides"] == "told by 0"
        _assert_same(found, alone[task.name], SAVED_AFTER)


@pytest.mark.parametrize("written_by", STRATEGIES)
@pytest.mark.parametrize("read_by", STRATEGIES)
def test_three_workers_go_on_from_what_two_have_written(together, alone, written_by, read_by):
    """A machine that joins changes the parts, not what is learnt."""
    for rank in range(3):
        found = _found(together / f"3-{read_by}", f"{RESUMED.name}-from-{written_by}", rank)
        assert found["besides"] == "told by 0"
        _assert_same(found, alone[RESUMED.name], SAVED_AFTER)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_workers_pass_over_a_checkpoint_that_one_of_them_cannot_read(together, strategy):
    """One that starts afresh alone, after a broken download, makes the others wait for it until they give up."""
    for rank in range(2):
        found = _found(together / f"2-{strategy}", "damaged-for-one", rank)
        assert (found["step"], found["besides"]) == (SAVED_AFTER, "told by 0")
        assert found["said"].startswith("train semantic passes over a checkpoint: worker 1: ")
        assert found["said"].endswith("is damaged\n") and "newer-1/shard" in found["said"]
        damaged, other, none = found["refused"]
        assert damaged.startswith("worker 1: ") and damaged.endswith("is damaged")
        assert other.startswith("worker 0: ") and "belongs to another recipe" in other
        assert none == "None"


@pytest.mark.parametrize(("size", "strategy"), TOGETHER)
def test_as_many_workers_go_on_to_the_same_bits(together, size, strategy):
    """Dropout, moments and the order in which gradients are summed must all stand where they stood."""
    for rank in range(size):
        whole, resumed = (
            _found(together / f"{size}-{strategy}", name, rank) for name in (RANDOM.name, f"{RANDOM.name}-resumed")
        )
        assert torch.equal(resumed["losses"], whole["losses"][SAVED_AFTER:])
        assert all(torch.equal(resumed["weights"][name], weight) for name, weight in whole["weights"].items())
