"""The model beside the one in production: which one that is, whether they can be compared, and which is worse."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import scenes
import torch

from v2meow import bundle, release, workspace
from v2meow.config import recipe_path
from v2meow.evaluate import production
from v2meow.evaluate.baselines import random_tracks
from v2meow.evaluate.statistics import worse_by
from v2meow.evaluate.surprise import surprise
from v2meow.files import read_json, write_json
from v2meow.registry import (
    PRODUCTION,
    REGISTRY_VARIABLE,
    SMOKE,
    STAGING,
    Pointer,
    Registry,
    RegistryError,
    read_pointer,
)


def _promoted(place, content: str) -> str:
    """A bundle that differs from the shipped model in its card, in production in the workspace; its hash."""
    parts = {path.relative_to(release.SHIPPED / "nano"): path for path in (release.SHIPPED / "nano").rglob("*")}
    card = place / "card.md"
    card.write_text(content)
    files = {str(name): path for name, path in parts.items() if path.is_file() and name.name != "bundle.json"}
    digest = bundle.assemble(files | {"MODEL_CARD.md": card}, place / content)
    models, name = Registry(place / "registry"), release.MODEL_NAME
    verdict = place / f"{content}.json"
    write_json(verdict, {"passed": True, "bundle": digest, "recipe": "nano", "criteria": []})
    made = models.register(name, place / content, verdict, data_version="d", git_revision="g", actor="ada")
    version = made.name
    models.promote(name, version, STAGING, actor="ada")
    write_json(place / "smoke.json", {"passed": True, "bundle": digest})
    models.attest(name, version, SMOKE, place / "smoke.json", actor="ada")
    models.promote(name, version, PRODUCTION, actor="ada")
    return digest


def test_the_file_tells_what_is_in_production_and_is_written_only_when_that_changed(tmp_path, monkeypatch):
    """DVC would evaluate again for every new time of the file in a place that checks times, and git show a change."""
    monkeypatch.delenv(REGISTRY_VARIABLE, raising=False)
    shutil.copy(recipe_path("nano"), tmp_path / "recipe.yaml")
    assert release.note_production(tmp_path) and not release.note_production(tmp_path)
    assert read_json(tmp_path / workspace.PRODUCTION) == {"model": None}
    assert read_pointer(tmp_path / workspace.PRODUCTION) is None
    digest = _promoted(tmp_path, "one")
    assert release.note_production(tmp_path)
    written = (tmp_path / workspace.PRODUCTION).stat().st_mtime_ns
    assert not release.note_production(tmp_path)
    assert (tmp_path / workspace.PRODUCTION).stat().st_mtime_ns == written
    assert read_pointer(tmp_path / workspace.PRODUCTION) == Pointer(
        model=release.MODEL_NAME, version="v1", bundle=digest
    )


def test_a_workspace_from_before_the_file_has_no_production(tmp_path):
    assert read_pointer(tmp_path / workspace.PRODUCTION) is None


def test_a_new_workspace_knows_that_nothing_is_in_production(untouched):
    """DVC refuses to run a step whose dependency is missing."""
    assert read_json(untouched / workspace.PRODUCTION) == {"model": None}
    assert not release.note_production(untouched)


def test_a_promotion_makes_the_next_evaluation_another_one():
    """The one file in which DVC sees the registry: without it a model would stay judged beside its predecessor's."""
    import yaml

    pipeline = yaml.safe_load((scenes.SHIPPED.parents[2] / "dvc.yaml").read_text())
    assert str(workspace.PRODUCTION) in pipeline["stages"]["evaluate"]["deps"]


def test_why_there_is_nothing_to_compare_with_is_said(material, yardstick, tmp_path, monkeypatch):
    monkeypatch.delenv(REGISTRY_VARIABLE, raising=False)
    place, profile = replace(material, workspace=tmp_path), yardstick.profile(material.real)
    assert production.measure(place, yardstick, profile)["reason"] == "no model is in production yet"
    named = {"model": "v2meow", "version": "v1", "bundle": material.cascade.bundle}
    write_json(tmp_path / workspace.PRODUCTION, named)
    assert production.measure(place, yardstick, profile) == named | {"reason": "it is this very model"}


def test_another_bundle_than_the_named_one_is_refused(tmp_path, material, yardstick, monkeypatch):
    """A registry that was exchanged behind the file's back must not lend its numbers."""
    monkeypatch.delenv(REGISTRY_VARIABLE, raising=False)
    _promoted(tmp_path, "one")
    write_json(tmp_path / workspace.PRODUCTION, {"model": release.MODEL_NAME, "version": "v1", "bundle": "f" * 64})
    with pytest.raises(RegistryError, match="another bundle"):
        production.measure(replace(material, workspace=tmp_path), yardstick, yardstick.profile(material.real))


@pytest.mark.parametrize(
    ("section", "change", "reason"),
    [
        ("data", {"clip_seconds": 8.0}, "it was trained on clips of 8 s"),
        ("codec", {"sample_rate": 24_000}, "its music has 24000 Hz"),
    ],
)
def test_models_for_other_clips_are_not_compared(material, section, change, reason):
    other = replace(material.recipe, **{section: replace(getattr(material.recipe, section), **change)})
    assert production.incompatible(other, material.recipe) == reason
    assert production.incompatible(material.recipe, material.recipe) is None


def test_models_that_see_other_features_are_not_compared(material):
    other = replace(material.recipe, visual=(replace(material.recipe.visual[0], rate=5.0),))
    assert production.incompatible(other, material.recipe) == "it was trained on other visual features"


@pytest.mark.slow
def test_production_scores_the_same_clips(material, yardstick, tmp_path, monkeypatch):
    """Real music beside the shipped model's is no worse by any measure of the picture, and no number is missing."""
    monkeypatch.delenv(REGISTRY_VARIABLE, raising=False)
    place = replace(material, workspace=tmp_path)
    shutil.copy(recipe_path("nano"), tmp_path / "recipe.yaml")
    (tmp_path / "data").symlink_to(material.workspace / "data")
    (tmp_path / "models").symlink_to(material.workspace / "models")
    digest = _promoted(tmp_path, "one")
    release.note_production(tmp_path)
    excess = production.excess_of(place.bundle, place.cascade, place, material.real)
    found = production.measure(place, yardstick, yardstick.profile(material.real, excess))
    assert found["bundle"] == digest and "reason" not in found
    assert {"surprise", "planted", "kernel", "level", "tags", "loudness", "correspondence"} <= set(found)
    assert all(row["count"] == len(material.examples) for row in found["surprise"].values())
    assert all(worse_by(found[part][name]) <= 0 for part, name in (("planted", "timbre"), ("kernel", "semantic")))
    json.dumps(found)


def test_what_was_made_for_other_pictures_is_worse_beyond_the_interval(material, yardstick):
    count = len(material.examples)
    turned = scenes.dealt(material.real, [(row + 5) % count for row in range(count)])
    wrong, right = yardstick.profile(turned), yardstick.profile(material.real)
    rows = production.compare(wrong, right, yardstick.reference, seed=0)
    assert worse_by(rows["planted.timbre"]) > 0
    assert rows["kernel.joint"]["difference"] == pytest.approx(0, abs=1e-6)  # the same pieces, after all
    assert all(worse_by(row) <= 1e-6 for row in production.compare(right, wrong, yardstick.reference, seed=0).values())


def test_wrong_ids_surprise_the_stage_that_they_are_in(material):
    """And no measure of whole clips would hear one wrong note in twenty."""
    random = torch.Generator().manual_seed(0)
    bins = {"ids": material.recipe.semantic_ids.clusters, "codes": material.recipe.codec.bins}
    real = surprise(material.bundle, material.recipe, material.examples, material.real)
    changed = {}
    for name, count in bins.items():
        clean = getattr(material.real, name)
        hit = torch.rand(clean.shape, generator=random) < 0.05
        changed[name] = torch.where(hit, torch.randint(0, count, clean.shape, generator=random), clean)
    found = surprise(material.bundle, material.recipe, material.examples, replace(material.real, **changed))
    for name, values in found.items():
        assert values.shape == (len(material.examples),)
        assert np.all(values > real[name]) and (values - real[name]).mean() > 0.1


def test_training_music_does_not_surprise_but_for_the_picture(material):
    """Its ids are real ones for another picture: the semantic stage notices, the fine stage sees none."""
    other = surprise(material.bundle, material.recipe, material.examples, random_tracks(material))
    real = surprise(material.bundle, material.recipe, material.examples, material.real)
    assert other["semantic"].mean() > real["semantic"].mean() + 0.3
    assert abs(other["fine"].mean() - real["fine"].mean()) < 0.3
