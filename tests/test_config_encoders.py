"""Values of semantic ids and of the music-text model that cannot work are told by their keys."""

from typing import Any

import pytest
import tiny

from v2meow.config import RecipeError

IDS = {"kind": "mert", "asset": "a", "layer": 7, "rate": 25, "clusters": 9, "sample_frames": 99, "bfloat16": False}
CLAP = {"kind": "clap", "asset": "a", "batch": 4, "bfloat16": True}


@pytest.mark.parametrize("kind", ["w2v-bert", "mert", "musicfm"])
def test_pretrained_kinds_can_be_named(kind):
    recipe = tiny.recipe({"semantic_ids": IDS | {"kind": kind}, "joint": CLAP})
    assert (recipe.semantic_ids.kind, recipe.joint.kind) == (kind, "clap")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"semantic_ids.sample_frames": 15}, "semantic_ids.sample_frames: must be at least the 16 clusters"),
        ({"semantic_ids": IDS | {"layer": 0}}, "semantic_ids.layer: counts from 1"),
        ({"joint.batch": 1}, "joint.batch: must be at least 2"),
        ({"joint.steps": 0}, "joint: width and steps must be positive"),
        ({"joint": CLAP | {"batch": 0}}, "joint.batch: must be positive"),
    ],
)
def test_values_that_cannot_work_are_told_by_their_key(changes: dict[str, Any], problem: str):
    with pytest.raises(RecipeError) as error:
        tiny.recipe(changes)
    assert problem in str(error.value)
