"""Cached, guided, batched decoding against the plain loop that does none of this."""

import itertools
from dataclasses import replace

import pytest
import tiny
import torch

from v2meow.config import STAGES, SamplingConfig
from v2meow.generate.decode import decode, guidance_rows
from v2meow.model.lm import Conditions, TokenLM
from v2meow.model.patterns import NOTHING, UNKNOWN

MODELS = list(itertools.product(STAGES, ("delay", "flatten")))
SECONDS = 0.4  # 10 semantic ids, 20 codec frames
SAMPLED = SamplingConfig(temperature=1.0, top_k=0, top_p=1.0, guide_video=2.0, guide_text=1.5)
GREEDY = replace(SAMPLED, top_k=1)


def _generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def _case(stage, layout, batch, known_share=0.0) -> tuple[TokenLM, Conditions, torch.Tensor]:
    """A model, its conditions, and codes whose first frames are known."""
    model = tiny.model(stage, layout)
    codes, given = tiny.inputs(model, batch, SECONDS)
    known = codes.clone()
    known[..., round(known_share * codes.shape[2]) :] = UNKNOWN
    return model, given, known


def _guided(model: TokenLM, given: Conditions, codes: torch.Tensor, config: SamplingConfig) -> torch.Tensor:
    """Logits with each scale applied to its own difference, one plain forward for each term."""

    def logits(video: bool, text: bool) -> torch.Tensor:
        rows = torch.ones(len(codes), dtype=torch.bool)
        return model(codes, replace(given, keep_video=rows & video, keep_text=rows & text))

    if not given.visual:
        return model(codes, given)
    guided = logits(False, False) + config.guide_video * (logits(True, False) - logits(False, False))
    if given.joint is not None:
        guided = guided + config.guide_text * (logits(True, True) - logits(True, False))
    return guided


@torch.inference_mode()
def _greedy_by_hand(model: TokenLM, given: Conditions, known: torch.Tensor, config: SamplingConfig) -> torch.Tensor:
    codes, made = known.clone(), model.layout(known.shape[2])
    for step in range(made.steps):
        best = _guided(model, given, codes.clamp(min=0), config)[:, step].argmax(-1)  # [B, K]
        for codebook, frame in enumerate(made.frame[step].tolist()):
            if frame != NOTHING:
                open_rows = codes[:, codebook, frame] == UNKNOWN
                codes[open_rows, codebook, frame] = best[open_rows, codebook]
    return codes


@pytest.mark.parametrize("known_share", [0.0, 0.5])
@pytest.mark.parametrize(("stage", "layout"), MODELS)
def test_cached_decoding_is_the_plain_loop(stage, layout, known_share):
    """A cache that is off by one step, or a guidance row that is another request's, still makes music."""
    model, given, known = _case(stage, layout, 2, known_share)
    expected = _greedy_by_hand(model, given, known, GREEDY)
    assert torch.equal(decode(model, given, known, GREEDY, _generators(0, 1)), expected)


@pytest.mark.parametrize("scales", [(1.0, 1.0), (0.0, 0.0), (3.0, 1.0), (1.0, 3.0), (2.5, 2.5), (3.0, 0.0)])
@pytest.mark.parametrize("prompt", [True, False])
def test_rows_that_are_left_out_would_have_changed_nothing(scales, prompt):
    """Scales of 1 and equal scales save rows of the batch; the sum must stay the formula's."""
    model, given, known = _case("semantic", "delay", 2)
    given = given if prompt else replace(given, joint=None)
    config = replace(GREEDY, guide_video=scales[0], guide_text=scales[1])
    expected = _greedy_by_hand(model, given, known, config)
    assert torch.equal(decode(model, given, known, config, _generators(0, 1)), expected)


@pytest.mark.parametrize("has_video", [True, False])
@pytest.mark.parametrize("has_text", [True, False])
def test_guidance_weights_are_those_of_the_formula(has_video, has_text):
    """none + guide_video (video - none) + guide_text (both - video), where a condition that is absent adds nothing."""
    for video_scale, text_scale in itertools.product((0.0, 0.5, 1.0, 2.0), repeat=2):
        config = replace(SAMPLED, guide_video=video_scale, guide_text=text_scale)
        rows = guidance_rows(config, has_video=has_video, has_text=has_text)
        none, video, both = 1.0, 10.0 if has_video else 1.0, 100.0 if has_text else 10.0 if has_video else 1.0
        expected = none + video_scale * (video - none) + text_scale * (both - video)
        value = {(True, True): both, (True, False): video, (False, False): none}
        assert sum(row.weight * value[row.video, row.text] for row in rows) == pytest.approx(expected)
        assert all(row.weight for row in rows)
    assert len(guidance_rows(replace(SAMPLED, guide_video=1.0, guide_text=1.0), has_video=True, has_text=has_text)) == 1


@pytest.mark.parametrize(("stage", "layout"), MODELS)
def test_a_batch_gives_what_each_request_gives_alone(stage, layout):
    """Whom a request is batched with is chance; its music is not."""
    model, given, known = _case(stage, layout, 3, 0.3)
    together = decode(model, given, known, SAMPLED, _generators(5, 6, 7))
    for row in range(3):
        own = slice(row, row + 1)
        alone = Conditions(
            visual=tuple(features[own] for features in given.visual),
            joint=None if given.joint is None else given.joint[own],
            prefix=None if given.prefix is None else given.prefix[own],
        )
        assert torch.equal(decode(model, alone, known[own], SAMPLED, _generators(5 + row)), together[own])


@pytest.mark.parametrize("stage", STAGES)
def test_the_seed_alone_decides(stage):
    model, given, known = _case(stage, "delay", 1)
    codes = decode(model, given, known, SAMPLED, _generators(3))
    torch.manual_seed(99)  # the global stream must not matter
    assert torch.equal(decode(model, given, known, SAMPLED, _generators(3)), codes)
    assert not torch.equal(decode(model, given, known, SAMPLED, _generators(4)), codes)


@pytest.mark.parametrize(("stage", "layout"), MODELS)
def test_known_codes_stay_and_all_others_are_drawn(stage, layout):
    """A window that rewrites its context makes a seam; an id of -1 would be another's sound."""
    model, given, known = _case(stage, layout, 2, 0.5)
    codes = decode(model, given, known, SAMPLED, _generators(0, 1))
    assert torch.equal(codes[known != UNKNOWN], known[known != UNKNOWN])
    assert codes.shape == known.shape
    assert ((codes >= 0) & (codes < model.spec.target.bins)).all()


def test_where_all_is_known_nothing_is_drawn():
    """The last window may lie wholly within its context; its draws would shift those of the next call."""
    model, given, known = _case("fine", "delay", 1, 1.0)
    generators = _generators(0)
    before = generators[0].get_state()
    assert torch.equal(decode(model, given, known, SAMPLED, generators), known)
    assert torch.equal(generators[0].get_state(), before)


def test_context_that_is_known_changes_what_follows():
    """Carried over codes that the model does not see would be a cut at every window."""
    model, given, known = _case("coarse", "delay", 1, 0.5)
    other = known.clone()
    other[known != UNKNOWN] = (other[known != UNKNOWN] + 1) % model.spec.target.bins
    ours, theirs = (decode(model, given, each, GREEDY, _generators(0)) for each in (known, other))
    assert not torch.equal(ours[known == UNKNOWN], theirs[known == UNKNOWN])
