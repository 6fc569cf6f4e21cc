"""The gate's power check: it must tell good from bad as the gate would, and damage what it says it damages."""

import numpy as np
import pytest
import tiny
import tiny_bundle
import torch

from benchmarks import gate as power
from v2meow.config import load_recipe, recipe_path
from v2meow.evaluate.material import Material, compose, through_codec
from v2meow.evaluate.profile import Profile
from v2meow.generate.pipeline import Cascade

COUNT = 48
KNOWN = {"decoder": {"agreement": 1.0}, "loss": {"semantic": {"margin": 1.0}}}


def _heard(seed: int, follows: float = 3.0, surprised: float = 0.0, copied: float = 0.0) -> power.Heard:
    """A candidate whose music goes with its own video by so many standard deviations."""
    random = np.random.default_rng(seed)
    names = ("planted.timbre", "planted.energy", "correspondence.retrieval")
    pairs = {name: random.normal(size=(COUNT, COUNT)) + follows * np.eye(COUNT) for name in names}
    scores = {f"surprise.{name}": random.normal(surprised, 0.2, COUNT) for name in ("semantic", "coarse", "fine")}
    embeddings = {name: random.normal(size=(COUNT, 4)) for name in ("joint", "semantic")}
    return power.Heard(
        profile=Profile(scores=scores, pairs=pairs, embeddings=embeddings),
        copied=np.full(COUNT, copied),
        levels=np.full(COUNT, -20.0),
        clipped=np.zeros(COUNT),
    )


REFERENCE = {name: np.random.default_rng(9).normal(size=(100, 4)) for name in ("joint", "semantic")}


@pytest.mark.parametrize(
    ("candidate", "stopped_by"),
    [
        (_heard(1), None),
        (_heard(1, follows=0.0), "planted.timbre.p_value"),
        (_heard(1, follows=1.5), "production.planted.timbre"),
        (_heard(1, surprised=0.5), "production.surprise.coarse"),
        (_heard(1, copied=3.0), "memorisation.exact_excess"),
    ],
)
def test_gates_pass_the_good_and_say_what_stops_the_bad(candidate, stopped_by):
    """By the criteria of the recipe as they stand: a criterion that nothing measures here would stop everything."""
    criteria = load_recipe(recipe_path("nano")).gate
    row = power.simulate(candidate, _heard(0), REFERENCE, criteria, KNOWN, gates=3, samples=32)
    assert row["passed"] == (3 if stopped_by is None else 0), row
    assert stopped_by is None or row["stopped_by"][stopped_by] == 3


@pytest.fixture
def material(tmp_path) -> Material:
    folder = tiny_bundle.assembled(tmp_path)
    cascade, examples = Cascade(folder, pieces=4), tiny.examples(tiny.recipe(), 4)
    return Material(
        recipe=cascade.recipe,
        workspace=tmp_path,
        cascade=cascade,
        examples=examples,
        train=examples,
        generated=compose(cascade, examples, 4),
        real=through_codec(cascade, examples),
    )


def test_damage_goes_through_the_stages(material):
    """A stage must see what was damaged before it: noise that is laid on at the end would be easier to find."""
    music, clean = power.damaged(material, 0.05), power.damaged(material, 0.0)
    assert torch.equal(clean.ids, material.generated.ids) and torch.equal(clean.codes, material.generated.codes)
    torch.testing.assert_close(clean.waveforms, material.generated.waveforms, atol=1e-4, rtol=0)
    changed = (music.ids != clean.ids).float().mean()
    assert 0.01 < changed < 0.1
    assert (music.codes != clean.codes).float().mean() > 0.05
