"""Encoders of the model in production stay while the catalogue grows, as long as the recipe asks for the same ones."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import tiny_bundle

from v2meow import bundle, weights
from v2meow.registry import Registry, RegistryError
from v2meow.train import fit
from v2meow.train.kept import ENCODERS, keep_encoder
from v2meow.workspace import KEPT

NAMES = ("codec", "semantic", "joint")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A workspace whose encoders.json names a registered model."""
    made = tiny_bundle.parts(tmp_path / "parts")
    for name in NAMES:
        weights.halve(made[f"encoders/{name}"], tmp_path / "halved" / name)
        made[f"encoders/{name}"] = tmp_path / "halved" / name
    bundle.assemble(made, tmp_path / "bundle")
    verdict = {"passed": True, "bundle": bundle.verify(tmp_path / "bundle"), "recipe": "tiny", "criteria": []}
    (tmp_path / "verdict.json").write_text(json.dumps(verdict))
    place = tmp_path / "place"
    version = Registry(place / "registry").register(
        "cat", tmp_path / "bundle", tmp_path / "verdict.json", data_version="d", git_revision="g", actor="a"
    )
    (place / KEPT).write_text(json.dumps({"model": "cat", "version": version.name, "bundle": version.bundle}))
    return place


def test_the_encoders_of_the_named_model_are_brought_byte_for_byte(place, tmp_path):
    """Other bytes would make all examples anew."""
    for name in NAMES:
        assert fit.run(name, tiny.recipe(), place)["kept_from"] == "cat@v1"
        for file in (tmp_path / "halved" / name).iterdir():
            assert (place / ENCODERS / name / file.name).read_bytes() == file.read_bytes()


def test_what_a_bundle_holds_of_a_fitted_encoder_is_what_was_fitted(tmp_path):
    """Fitted in float32 and registered in float16, it would be another encoder in the next version."""
    made = tiny_bundle.parts(tmp_path)["encoders/codec"]
    weights.halve(made, tmp_path / "once")
    weights.halve(tmp_path / "once", tmp_path / "twice")
    assert (tmp_path / "once" / weights.WEIGHTS).read_bytes() == (tmp_path / "twice" / weights.WEIGHTS).read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_another_recipe_has_encoders_of_its_own(place, name):
    """A wider codec would silently stay the narrow one."""
    recipe = tiny.recipe()
    held = replace(recipe, data=replace(recipe.data, holdout=recipe.data.holdout / 2))
    assert keep_encoder(name, held, place) is None
    codec = replace(recipe, codec=replace(recipe.codec, levels=recipe.codec.levels + 1))
    assert (keep_encoder(name, codec, place) is None) == (name == "codec")


def test_without_a_model_there_is_nothing_to_keep(place):
    (place / KEPT).write_text('{"model": null}')
    assert keep_encoder("codec", tiny.recipe(), place) is None


def test_another_bundle_under_that_name_is_an_error(place):
    """The registry was replaced, and the encoders with it."""
    told = json.loads((place / KEPT).read_text())
    (place / KEPT).write_text(json.dumps(told | {"bundle": "0" * 64}))
    with pytest.raises(RegistryError, match="another bundle"):
        keep_encoder("codec", tiny.recipe(), place)
