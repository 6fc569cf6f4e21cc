"""A checkpoint is whole, fits the work it is used for, or is refused in one line; training then starts afresh."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from disks import small_disk
from safetensors.torch import load_file

from v2meow.data.manifest import EXAMPLES
from v2meow.train.batches import training_batches
from v2meow.train.checkpoint import SECTIONS, CheckpointError, Checkpoints, fingerprint
from v2meow.train.loop import train
from v2meow.train.state import TrainState
from v2meow.train.step import make_model

CPU = torch.device("cpu")
SHARD, TOLD = "shard-00001-model-00001-of-00001.safetensors", "worker-00000.json"


def _state(steps=2) -> TrainState:
    recipe = tiny.recipe({"stages.coarse.steps": steps, "stages.coarse.dropout": 0.1})
    torch.manual_seed(0)
    state = TrainState(make_model(recipe, "coarse", tiny.examples(recipe, 6)), recipe.stages.coarse)
    batches = training_batches(recipe, "coarse", tiny.examples(recipe, 6))
    train(state, batches, recipe.stages.coarse, 1e12, lambda report: None)
    return state


def _same(one: TrainState, other: TrainState) -> bool:
    a, b = one.tensors(), other.tensors()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def saved(tmp_path):
    checkpoints = Checkpoints(tmp_path / "coarse", "work")
    state = _state()
    checkpoints.save(state, ["curve"])
    checkpoints.finish()
    return checkpoints, state, tmp_path / "coarse/step-00000002"


def test_what_is_saved_is_what_is_resumed(saved):
    checkpoints, state, _ = saved
    other = _state(steps=1)
    assert checkpoints.resume(other) == ["curve"]
    assert other.step == 2
    assert _same(other, state)


def test_the_files_are_not_pickle(saved):
    """A pickle runs what it holds: a checkpoint may come from a bucket that others write to."""
    _, state, folder = saved
    assert {file.name for file in folder.iterdir()} == {SHARD, TOLD}
    assert load_file(folder / SHARD).keys() == state.tensors().keys()
    assert json.loads((folder / TOLD).read_text())["step"] == 2


def test_without_a_checkpoint_there_is_nothing_to_resume(tmp_path):
    state = _state()
    assert Checkpoints(tmp_path / "coarse", "work").resume(state) is None
    assert state.step == 2


def test_only_the_newest_is_kept_and_what_a_killed_process_left_goes(saved):
    """A disk full of old checkpoints ends a training of weeks."""
    checkpoints, state, folder = saved
    (folder.parent / ".step-00000003.abc").mkdir()
    state.step = 4
    checkpoints.save(state, [])
    checkpoints.finish()
    assert [path.name for path in folder.parent.iterdir()] == ["step-00000004"]
    checkpoints.discard()
    assert not folder.parent.exists()


def test_of_two_the_newer_is_taken(saved):
    """A process that is killed after it wrote one and before it removed the other leaves both, whole."""
    checkpoints, state, folder = saved
    shutil.copytree(folder, folder.parents[1] / "older")
    state.step = 12
    checkpoints.save(state, ["later"])
    checkpoints.finish()
    (folder.parents[1] / "older").rename(folder)
    assert checkpoints.resume(_state(steps=1)) == ["later"]


def test_other_work_is_not_gone_on_with(saved):
    """Steps of one recipe on top of another's weights are a model that no recipe describes."""
    _, _, folder = saved
    state = _state(steps=1)
    before = {name: tensor.clone() for name, tensor in state.tensors().items()}
    with pytest.raises(CheckpointError, match="belongs to another recipe, other examples, other code or another torch"):
        Checkpoints(folder.parent, "other work").resume(state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.tensors().items())
    assert state.step == 1


def _flip(data: bytes) -> bytes:
    return data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]


@pytest.mark.parametrize("file", [SHARD, TOLD])
@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", _flip, None])
def test_a_damaged_checkpoint_is_told_in_one_line_and_changes_nothing(saved, file, damage):
    """A single flipped bit in a moment would be trained on unseen."""
    checkpoints, _, folder = saved
    if damage is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(damage((folder / file).read_bytes()))
    state = _state(steps=1)
    before = {name: tensor.clone() for name, tensor in state.tensors().items()}
    with pytest.raises(CheckpointError) as caught:
        checkpoints.resume(state)
    assert "damaged" in str(caught.value) or "another" in str(caught.value)
    assert "\n" not in str(caught.value) and "step-00000002" in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.tensors().items())


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path):
    """Removing it first would lose days of training for want of room."""
    state = _state()
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.tensors().values())
    with small_disk(tmp_path / "disk", kibibytes=3 * size // 2 // 1024) as disk:
        checkpoints = Checkpoints(disk / "coarse", "work")
        checkpoints.save(state, [])
        checkpoints.finish()
        state.step = 4
        checkpoints.save(state, [])
        with pytest.raises(OSError, match=r"could not write .*step-00000004"):
            checkpoints.finish()
        assert [path.name for path in (disk / "coarse").iterdir()] == ["step-00000002"]
        assert checkpoints.resume(state) == []


def test_training_goes_on_while_a_checkpoint_is_written(saved):
    """What is written is the state at the time of saving, whatever the next steps do to its tensors."""
    checkpoints, state, folder = saved
    before = {name: tensor.clone() for name, tensor in state.tensors().items()}
    state.step = 4
    checkpoints.save(state, [])
    for tensor in state.tensors().values():
        tensor.zero_()
    checkpoints.finish()
    found = load_file(folder.parent / "step-00000004" / SHARD)
    assert all(torch.equal(tensor, found[name]) for name, tensor in before.items())


def test_a_checkpoint_without_what_this_model_needs_is_refused(saved):
    """Restored in part, training would go on with other numbers, and nobody would know."""
    checkpoints, _, _ = saved
    recipe = tiny.recipe({"stages.coarse.ema": 0.9})
    averaged = TrainState(make_model(recipe, "coarse", tiny.examples(recipe, 6)), recipe.stages.coarse)
    with pytest.raises(CheckpointError, match=r"step-00000002 does not hold this model: .*average\."):
        checkpoints.resume(averaged)


@pytest.fixture
def catalogue(tmp_path):
    (tmp_path / EXAMPLES).mkdir(parents=True)
    (tmp_path / EXAMPLES / "part-00000.parquet").write_bytes(b"examples")
    return tmp_path


@pytest.mark.parametrize(
    ("key", "value", "changes"),
    [
        ("seed", 1, True),
        ("stages.coarse.learning_rate", 0.5, True),
        ("stages.coarse_levels", 1, True),
        ("codec.bins", 32, True),
        ("stages.fine.learning_rate", 0.5, False),
        ("generate.fine.temperature", 0.5, False),
        ("name", "other", False),
    ],
)
def test_the_fingerprint_changes_with_what_decides_the_weights_and_with_nothing_else(catalogue, key, value, changes):
    """Too little resumes other work; too much throws days of training away for a temperature."""
    before = fingerprint(tiny.recipe(), "coarse", catalogue, CPU)
    assert (fingerprint(tiny.recipe({key: value}), "coarse", catalogue, CPU) != before) == changes


def test_the_fingerprint_changes_with_the_examples_and_the_device(catalogue, monkeypatch):
    recipe = tiny.recipe()
    found = {fingerprint(recipe, "coarse", catalogue, CPU), fingerprint(recipe, "fine", catalogue, CPU)}
    found.add(fingerprint(replace(recipe, seed=9), "coarse", catalogue, CPU))
    found.add(fingerprint(recipe, "coarse", catalogue, torch.device("cuda")))
    (catalogue / EXAMPLES / "part-00000.parquet").write_bytes(b"examplez")
    found.add(fingerprint(recipe, "coarse", catalogue, CPU))
    monkeypatch.setattr(torch, "__version__", "9.9")
    found.add(fingerprint(recipe, "coarse", catalogue, CPU))
    assert len(found) == 6


def test_the_fingerprint_covers_what_the_step_depends_on():
    """A section that dvc.yaml knows and a checkpoint does not would let an edited recipe go on with the old steps."""
    template = yaml.safe_load((Path(__file__).parents[2] / "dvc.yaml").read_text())
    (sections,) = (params["recipe.yaml"] for params in template["stages"]["train"]["do"]["params"])
    assert set(SECTIONS) == {section for section in sections if not section.startswith("stages.")}
