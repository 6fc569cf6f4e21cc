"""The decoder's agreement with the plain model: all where nothing is rounded, little where its cache is wrong."""

from collections.abc import Callable
from copy import copy
from dataclasses import replace

import pytest
import tiny
import tiny_bundle
import torch

from v2meow.config import STAGES
from v2meow.evaluate.gate import BUNDLE
from v2meow.evaluate.material import Material
from v2meow.evaluate.step import decoder_agreement
from v2meow.generate.engine import Engine
from v2meow.generate.linear import Precision
from v2meow.generate.parts import stage_engine
from v2meow.generate.pipeline import Cascade
from v2meow.generate.state import Extent, State
from v2meow.model.io import load_stage
from v2meow.train.batches import held_out_batches


def _coarse(state: State, extent: Extent) -> None:
    """Of float32, keep the sign, the exponent and one more bit."""
    state.decoder.all_cache.view(torch.int32).bitwise_and_(-1 << 22)


def _forgetful(state: State, extent: Extent) -> None:
    """Lose what this step wrote."""
    state.decoder.all_cache[..., extent.span - 1, :] = 0


def _spoil(engine: Engine, spoil: Callable[[State, Extent], None]) -> Callable[[Extent], None]:
    """The engine's step with something done to its cache behind it."""
    run = engine._run

    def step(extent: Extent) -> None:
        run(extent)
        spoil(engine._state, extent)

    return step


def _in_precision(material: Material, precision: Precision) -> Material:
    recipe, cascade = material.recipe, copy(material.cascade)
    recipe = replace(recipe, generate=replace(recipe.generate, precision=precision))
    cascade.engines = {name: stage_engine(material.bundle, recipe, name, len(material.examples)) for name in STAGES}
    return replace(material, cascade=cascade)


@torch.inference_mode()
def _agreement_of_whole_passes(material: Material) -> float:
    """The same share where the rounded weights take one pass, as the plain ones do."""
    agree = []
    for name in STAGES:
        models = load_stage(material.bundle / name), material.cascade.engines[name].model
        for batch in held_out_batches(material.recipe, name, material.examples):
            plain, rounded = (model(batch.codes, batch.conditions).argmax(-1) for model in models)
            agree.append(models[0].layout(batch.codes.shape[2]).revert(plain == rounded).flatten())
    return torch.cat(agree).float().mean().item()


def test_a_decoder_that_rounds_nothing_has_all_favourites(material):
    assert decoder_agreement(_in_precision(material, "float32")) == pytest.approx(1, abs=1e-4)  # but for ties


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "int8"])
def test_rounded_weights_take_as_much_step_by_step_as_in_one_pass(material, precision):
    """In bfloat16 less than that: passes round activations as well, the compiled step does not."""
    lowered = _in_precision(material, precision)
    found, whole = decoder_agreement(lowered), _agreement_of_whole_passes(lowered)
    assert 0.97 < found < 1
    assert found > whole - 0.01
    assert precision == "bfloat16" or found < whole + 0.01


@pytest.mark.parametrize("spoil", [_coarse, _forgetful])
def test_a_cache_that_is_wrong_costs_favourites(material, spoil, monkeypatch):
    """One pass of the same weights reads no cache: it has all favourites, whatever is wrong with the decoder's."""
    exact = _in_precision(material, "float32")
    for engine in exact.cascade.engines.values():
        assert isinstance(engine, Engine)
        monkeypatch.setattr(engine, "_run", _spoil(engine, spoil))
    assert _agreement_of_whole_passes(exact) == 1
    assert decoder_agreement(exact) < 0.85


def test_stages_of_every_layout_are_compared(material, tmp_path):
    """Layout parallel has no cache: there, the passes themselves are what decodes."""
    changes = tiny.laid_out("coarse", "flatten") | tiny.laid_out("fine", "parallel")
    tiny_bundle.assembled((tmp_path / BUNDLE).parent, changes)
    cascade, recipe = Cascade(tmp_path / BUNDLE, pieces=2), tiny.recipe(changes)
    small = replace(material, recipe=recipe, workspace=tmp_path, cascade=cascade, examples=tiny.examples(recipe, 3))
    assert decoder_agreement(small) == 1
    assert decoder_agreement(_in_precision(small, "int8")) < 1
