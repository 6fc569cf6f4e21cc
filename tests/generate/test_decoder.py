"""The lean decoding step against the plain forward: the same logits, whatever else is in the cache."""

import itertools
from copy import deepcopy

import pytest
import tiny
import torch
from torch.nn import functional as F

from v2meow.config import STAGES
from v2meow.generate.decoder import Decoder, Place, fold_norms
from v2meow.model.lm import TokenLM

MODELS = list(itertools.product(STAGES, ("delay", "flatten")))
SECONDS = 0.2  # 5 semantic ids, 10 codec frames, 2 pictures


def _model(stage, layout) -> TokenLM:
    """With norms whose weights are not all one."""
    model = tiny.model(stage, layout)
    assert not torch.allclose(model.norm.weight, torch.ones(32), atol=0.1)
    return model


def _inputs(model: TokenLM, codes: torch.Tensor) -> torch.Tensor:
    sequence = model.layout(codes.shape[2]).build(codes, model.empty)
    return F.pad(sequence[:, :-1], (0, 0, 1, 0), value=model.empty)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize(("stage", "layout"), MODELS)
@torch.inference_mode()
def test_a_step_gives_the_logits_of_one_plain_forward(stage, layout, ragged):
    """Rows at different steps, with prefixes and memories of different lengths, in a cache that others have used."""
    plain = _model(stage, layout)
    cases = [
        tiny.inputs(plain, 1, seconds, seed=seed)
        for seed, seconds in enumerate((SECONDS, 0.4 if ragged else SECONDS, SECONDS))
    ]
    at = [1, 4, 2] if ragged else [2, 2, 2]
    decoder = Decoder(deepcopy(plain), "float32", rows=4, steps=60, places=90, memory=12)
    for storage in (*decoder.cache, *decoder.memory):
        if storage:
            storage.both.fill_(3.0)
    places, heard = [], []
    for row, ((codes, given), step) in enumerate(zip(cases, at, strict=True)):
        memory = decoder.model.memory(given)
        for storage, part in zip(decoder.memory, memory, strict=True):
            if storage and part:
                storage.rows(row, row + 1).fill(part.keys, part.values)
        caches = [storage.rows(row, row + 1) for storage in decoder.cache]
        places.append(decoder.model.fill(_inputs(plain, codes)[:, :step], given, caches, memory))
        heard.append(memory[0].keys.shape[2] if memory[0] else 0)
    for _ in range(3):
        here = Place(
            at=torch.tensor(at),
            place=torch.tensor(places),
            heard=torch.tensor(heard),
            span=max(places) + 1,
            memory=max(heard),
            level=not ragged,
            even=not ragged,
        )
        inputs = torch.stack([_inputs(plain, codes)[0, step] for (codes, _), step in zip(cases, at, strict=True)])
        logits = decoder.step(inputs, here)
        for row, (codes, given) in enumerate(cases):
            torch.testing.assert_close(logits[row], plain(codes, given)[0, at[row]], atol=1e-4, rtol=1e-4)
        at, places = [step + 1 for step in at], [place + 1 for place in places]


@pytest.mark.parametrize("stage", STAGES)
@torch.inference_mode()
def test_folded_norms_compute_the_same(stage):
    plain = _model(stage, "delay")
    codes, given = tiny.inputs(plain, 2, SECONDS)
    folded = deepcopy(plain)
    fold_norms(folded)
    assert torch.equal(folded.norm.weight, torch.ones(32))
    torch.testing.assert_close(folded(codes, given), plain(codes, given), atol=1e-4, rtol=1e-4)


def test_embeddings_are_not_kept_twice():
    """Their tables are a fifth of a small model."""
    decoder = Decoder(_model("coarse", "delay"), "float32", rows=1, steps=9, places=9, memory=1)
    first, second = (part.weight for part in decoder.model.embed.children())
    assert isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor)
    assert second.data_ptr() - first.data_ptr() == first.nbytes
