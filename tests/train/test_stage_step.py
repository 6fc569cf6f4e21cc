"""The step `train STAGE`: from the examples on disk to a model folder, the same bytes for the same input."""

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import torch

from v2meow.config import STAGES
from v2meow.data.dataset import schema
from v2meow.data.manifest import EXAMPLES, DataError
from v2meow.model.io import load_stage
from v2meow.train.step import make_model, run, within_epochs


@pytest.fixture
def workspace(tmp_path):
    """Five examples to learn from and three that are held out."""
    recipe = tiny.recipe()
    examples = tiny.examples(recipe, 8)
    rows = [
        {
            "clip_id": examples.clip_id[row],
            "video_id": examples.video_id[row],
            "split": "train" if row < 5 else "holdout",
            "caption": "",
            "attributes": "{}",
            "semantic": examples.semantic[row].flatten().tolist(),
            "codes": examples.codes[row].flatten().tolist(),
            "visual_motion": examples.visual[0][row].flatten().tolist(),
            "joint": examples.joint[row].tolist(),
        }
        for row in range(8)
    ]
    (tmp_path / EXAMPLES).mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema(recipe)), tmp_path / EXAMPLES / "part-00000.parquet")
    return tmp_path


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
    weights = workspace / "models/semantic/model.safetensors"
    run("semantic", tiny.recipe(), workspace)
    first = weights.read_bytes()
    run("semantic", tiny.recipe(), workspace)
    assert weights.read_bytes() == first


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
