"""The engine: cached, guided, batched decoding against the plain loop that does none of this."""

import itertools
from copy import deepcopy
from dataclasses import replace

import pytest
import tiny
import torch

from v2meow.config import STAGES, SamplingConfig
from v2meow.generate.engine import Engine
from v2meow.generate.graphs import round_up
from v2meow.generate.guidance import guidance_rows
from v2meow.generate.linear import Precision
from v2meow.generate.request import Request
from v2meow.generate.state import Extent, State
from v2meow.model.lm import Conditions, TokenLM
from v2meow.model.patterns import NOTHING, UNKNOWN

MODELS = list(itertools.product(STAGES, ("delay", "flatten")))
SECONDS = 0.4  # 10 semantic ids, 20 codec frames
SAMPLED = SamplingConfig(temperature=1.0, top_k=0, top_p=1.0, guide_video=2.0, guide_text=1.5)
GREEDY = replace(SAMPLED, top_k=1)


def _case(stage, layout, batch, known_share=0.0, seconds=SECONDS) -> tuple[TokenLM, Conditions, torch.Tensor]:
    """A model, its conditions, and codes whose first frames are known."""
    model = tiny.model(stage, layout)
    codes, given = tiny.inputs(model, batch, seconds)
    known = codes.clone()
    known[..., round(known_share * codes.shape[2]) :] = UNKNOWN
    return model, given, known


def _row(given: Conditions, row: int) -> Conditions:
    own = slice(row, row + 1)
    return Conditions(
        visual=tuple(features[own] for features in given.visual),
        joint=None if given.joint is None else given.joint[own],
        prefix=None if given.prefix is None else given.prefix[own],
    )


def _requests(given: Conditions, known: torch.Tensor, seeds) -> list[Request]:
    return [Request(_row(given, row), known[row], seed) for row, seed in enumerate(seeds)]


def _engine(model: TokenLM, config: SamplingConfig = SAMPLED, rows=24, precision: Precision = "float32") -> Engine:
    return Engine(deepcopy(model), config, rows=rows, seconds=2 * SECONDS, precision=precision)


def _finish(engine: Engine) -> dict[int, torch.Tensor]:
    done = {}
    while engine.busy:
        done |= engine.step()
    return done


def _decode(
    model, given, known, config=SAMPLED, seeds=(0, 1, 2, 3, 4, 5), precision: Precision = "float32"
) -> torch.Tensor:
    """All requests at once through an engine of their own: [B, K, T]."""
    engine = _engine(model, config, precision=precision)
    tickets = [engine.submit(request) for request in _requests(given, known, seeds[: len(known)])]
    done = _finish(engine)
    return torch.stack([done[ticket] for ticket in tickets])


def _guided(model: TokenLM, given: Conditions, codes: torch.Tensor, config: SamplingConfig) -> torch.Tensor:
    """Logits with each scale applied to its own difference, one plain forward for each term."""

    def logits(video: bool, text: bool) -> torch.Tensor:
        rows = torch.ones(len(codes), dtype=torch.bool)
        return model(codes, replace(given, keep_video=rows & video, keep_text=rows & text))

    if not given.visual:
        return model(codes, given)
    nothing = logits(False, False)
    guided = logits(True, True) + (config.guide_video - 1) * (logits(True, False) - nothing)
    if given.joint is not None:
        guided = guided + (config.guide_text - 1) * (logits(False, True) - nothing)
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
    assert torch.equal(_decode(model, given, known, GREEDY), expected)


@pytest.mark.parametrize("scales", [(1.0, 1.0), (0.0, 0.0), (3.0, 1.0), (1.0, 3.0), (2.5, 2.5), (3.0, 0.0)])
@pytest.mark.parametrize("prompt", [True, False])
def test_rows_that_are_left_out_would_have_changed_nothing(scales, prompt):
    """Scales of 1 and equal scales save rows of the batch; the sum must stay the formula's."""
    model, given, known = _case("semantic", "delay", 2)
    given = given if prompt else replace(given, joint=None)
    config = replace(GREEDY, guide_video=scales[0], guide_text=scales[1])
    expected = _greedy_by_hand(model, given, known, config)
    assert torch.equal(_decode(model, given, known, config), expected)


@pytest.mark.parametrize("has_video", [True, False])
@pytest.mark.parametrize("has_text", [True, False])
def test_guidance_weights_are_those_of_the_formula(has_video, has_text):
    """both + (guide_video - 1) (video - none) + (guide_text - 1) (text - none); an absent condition adds nothing."""
    none, video, text, both = 1.0, 10.0, 100.0, 1000.0
    for video_scale, text_scale in itertools.product((0.0, 0.5, 1.0, 2.0), repeat=2):
        config = replace(SAMPLED, guide_video=video_scale, guide_text=text_scale)
        rows = guidance_rows(config, has_video=has_video, has_text=has_text)
        if has_video and has_text:
            expected = both + (video_scale - 1) * (video - none) + (text_scale - 1) * (text - none)
        elif has_video or has_text:
            only, scale = (video, video_scale) if has_video else (text, text_scale)
            expected = none + scale * (only - none)
        else:
            expected = none
        kept = {(row.video and has_video, row.text and has_text): row.weight for row in rows}
        value = {(True, True): both, (True, False): video, (False, True): text, (False, False): none}
        assert len(kept) == len(rows)
        assert sum(weight * value[key] for key, weight in kept.items()) == pytest.approx(expected)
        assert all(row.weight for row in rows)
    assert len(guidance_rows(replace(SAMPLED, guide_video=1.0, guide_text=1.0), has_video=True, has_text=has_text)) == 1


@pytest.mark.parametrize(("stage", "layout"), MODELS)
def test_a_batch_gives_what_each_request_gives_alone(stage, layout):
    """Whom a request is batched with is chance; its music is not."""
    model, given, known = _case(stage, layout, 3, 0.3)
    together = _decode(model, given, known, seeds=(5, 6, 7))
    for row in range(3):
        alone = _decode(model, _row(given, row), known[row : row + 1], seeds=(5 + row,))
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize("rows", [4, 5, 9, 24])
@pytest.mark.parametrize(("stage", "layout"), MODELS)
def test_requests_that_join_and_leave_at_any_step_are_none_the_wiser(stage, layout, rows):
    """Rows move into the gaps that others leave; a row read as its neighbour's would still make music.

    Requests of different lengths, contexts, and with or without a prompt come in while others are inside.
    """
    model, given, known = _case(stage, layout, 7, 0.3)
    requests = _requests(given, known, range(7))
    for number, request in enumerate(requests):
        if number % 2 and request.given.joint is not None:
            requests[number] = replace(request, given=replace(request.given, joint=None))
        if number % 3 == 0:
            requests[number] = replace(requests[number], known=request.known[:, : request.known.shape[1] // 2])
        if number % 3 == 1:
            requests[number] = replace(requests[number], known=torch.full_like(request.known, UNKNOWN))
    expected = []
    for request in requests:
        alone = _engine(model)
        alone.submit(request)
        expected += _finish(alone).values()
    engine, done, waiting = _engine(model, rows=rows), {}, list(enumerate(requests))
    tickets = {}
    while waiting or engine.busy:
        if waiting:
            number, request = waiting.pop(0)
            tickets[engine.submit(request)] = number
        for _ in range(3):
            done |= engine.step()
    assert {tickets[ticket] for ticket in done} == set(range(7))
    for ticket, codes in done.items():
        assert torch.equal(codes, expected[tickets[ticket]]), tickets[ticket]


@pytest.mark.parametrize("stage", STAGES)
def test_the_seed_alone_decides(stage):
    model, given, known = _case(stage, "delay", 1)
    codes = _decode(model, given, known, seeds=(3,))
    torch.manual_seed(99)  # the global stream must not matter
    assert torch.equal(_decode(model, given, known, seeds=(3,)), codes)
    assert not torch.equal(_decode(model, given, known, seeds=(4,)), codes)


@pytest.mark.parametrize(("stage", "layout"), MODELS)
def test_known_codes_stay_and_all_others_are_drawn(stage, layout):
    """A window that rewrites its context makes a seam; an id of -1 would be another's sound."""
    model, given, known = _case(stage, layout, 2, 0.5)
    codes = _decode(model, given, known)
    assert torch.equal(codes[known != UNKNOWN], known[known != UNKNOWN])
    assert codes.shape == known.shape
    assert ((codes >= 0) & (codes < model.spec.target.bins)).all()


def test_where_all_is_known_nothing_is_decoded():
    """Music that is given may cover whole windows."""
    model, given, known = _case("fine", "delay", 1, 1.0)
    engine = _engine(model)
    ticket = engine.submit(Request(given, known[0], 0))
    assert engine.busy and engine.load == (0, 24, 0)
    assert torch.equal(engine.step()[ticket], known[0])
    assert not engine.busy


def test_context_that_is_known_changes_what_follows():
    """Carried over codes that the model does not see would be a cut at every window."""
    model, given, known = _case("coarse", "delay", 1, 0.5)
    other = known.clone()
    other[known != UNKNOWN] = (other[known != UNKNOWN] + 1) % model.spec.target.bins
    ours, theirs = (_decode(model, given, each, GREEDY) for each in (known, other))
    assert not torch.equal(ours[known == UNKNOWN], theirs[known == UNKNOWN])


@pytest.mark.parametrize(("stage", "layout"), MODELS)
def test_frames_can_be_read_as_soon_as_they_are_whole(stage, layout):
    """The next stage and the ear start on them; a frame of which a level is missing is not one."""
    model, given, known = _case(stage, layout, 1, 0.2)
    engine = _engine(model)
    ticket, seen = engine.submit(Request(given, known[0], 0)), []
    assert engine.frames(ticket) == 0
    done = engine.step()
    while not done:
        seen.append(engine.peek(ticket))
        assert engine.frames(ticket) == seen[-1].shape[1]
        done = engine.step()
    assert all((part != UNKNOWN).all() and torch.equal(part, done[ticket][:, : part.shape[1]]) for part in seen)
    grown = [later.shape[1] - earlier.shape[1] for earlier, later in itertools.pairwise(seen)]
    assert set(grown) <= {0, 1}
    assert seen[-1].shape[1] >= known.shape[2] - 1


@pytest.mark.parametrize("inside", [0, 1, 2])
def test_a_cancelled_request_frees_its_rows_at_once_and_disturbs_nobody(inside):
    """A listener who left must not cost the others anything."""
    model, given, known = _case("semantic", "delay", 3)
    expected = _decode(model, given, known)
    engine = _engine(model)
    tickets = [engine.submit(request) for request in _requests(given, known, (0, 1, 2))]
    for _ in range(3):
        engine.step()
    assert engine.load == (12, 24, 0)
    engine.cancel(tickets[inside])
    assert engine.load == (8, 24, 0)
    done = _finish(engine)
    assert tickets[inside] not in done
    for row in {0, 1, 2} - {inside}:
        assert torch.equal(done[tickets[row]], expected[row])


def test_a_request_that_waits_or_is_done_can_be_cancelled_too():
    model, given, known = _case("coarse", "delay", 2)
    engine = _engine(model, rows=1)
    first, second = (engine.submit(request) for request in _requests(given, known, (0, 1)))
    engine.step()
    assert engine.load == (1, 1, 1)
    engine.cancel(second)
    assert set(_finish(engine)) == {first}
    engine.cancel(first)
    engine.cancel(99)


def test_nobody_is_overtaken_for_ever():
    """A request that needs three rows must not wait while those of one row keep coming."""
    model, given, known = _case("semantic", "delay", 1)
    engine = _engine(model, replace(SAMPLED, guide_video=1.0), rows=3)  # three rows with a prompt, one without
    small = Request(replace(_row(given, 0), joint=None), known[0], 0)
    for _ in range(3):
        engine.submit(small)
    engine.step()
    large = engine.submit(Request(_row(given, 0), known[0], 0))
    order = []
    for _ in range(60):
        if len(order) < 12:
            order += engine.step()
            engine.submit(small)
    assert order.index(large) <= 3


def test_a_request_that_does_not_fit_is_refused_before_it_costs_anything():
    """Found out while others are inside, it would take them down with it."""
    model, given, known = _case("coarse", "delay", 1, seconds=3 * SECONDS)
    with pytest.raises(ValueError, match="61 steps, it has room for 41; 30 places of prefix, it has room for 20"):
        _engine(model).submit(Request(given, known[0], 0))
    model, given, known = _case("semantic", "delay", 1)
    with pytest.raises(ValueError, match="4 rows, it has room for 2"):
        _engine(model, rows=2).submit(Request(given, known[0], 0))
    long = replace(given, visual=(torch.randn(1, 30, given.visual[0].shape[2]),))
    with pytest.raises(ValueError, match="30 pictures, it has room for 9"):
        _engine(model).submit(Request(long, known[0], 0))


def test_the_cache_is_allocated_once():
    """Decoding that allocates as it goes runs out of memory in the middle of a piece, under load."""
    model, given, known = _case("coarse", "delay", 4)
    engine = _engine(model, rows=2)
    places = [cache.both.data_ptr() for cache in engine._state.decoder.cache]
    for request in _requests(given, known, range(4)):
        engine.submit(request)
    _finish(engine)
    assert [cache.both.data_ptr() for cache in engine._state.decoder.cache] == places


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16", "int8", "int5"])
@pytest.mark.parametrize(("stage", "layout"), MODELS)
def test_the_compiled_step_draws_the_codes_of_the_plain_one(stage, layout, precision, monkeypatch):
    """Plain PyTorch rounds activations to bfloat16, too: there, some favourites among random weights may differ."""
    model, given, known = _case(stage, layout, 3, 0.3)
    compiled = _decode(model, given, known, precision=precision)
    monkeypatch.setattr("v2meow.generate.engine._state_class", lambda device: State)
    plain = _decode(model, given, known, precision=precision)
    first = known.shape[2] // 2  # codes that differ make all behind them differ
    same = (compiled == plain)[..., :first].float().mean()
    assert same == 1 if precision != "bfloat16" else same > 0.6


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16", "int8", "int5"])
@pytest.mark.parametrize("stage", STAGES)
def test_threads_that_share_a_step_draw_the_codes_of_one(stage, precision):
    """A thread that goes on before another has written its part reads what the step before left there."""
    model, given, known = _case(stage, "delay", 3, 0.3)
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(_decode(model, given, known, precision=precision))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@pytest.mark.parametrize("stage", STAGES)
def test_steps_that_one_thread_takes_alone_draw_the_codes_of_two(stage, monkeypatch):
    """It goes on alone in the middle of a piece, where others keep the second from its core, and meets it again."""
    model, given, known = _case(stage, "delay", 3, 0.3)
    expected, before = _decode(model, given, known), torch.get_num_threads()
    turns = itertools.cycle([True, False, False, True, True, False])
    monkeypatch.setattr("v2meow.generate.native.team.Pace.together", lambda _: next(turns))
    try:
        torch.set_num_threads(2)
        assert torch.equal(_decode(model, given, known), expected)
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
def _favourites_of_one_pass(model: TokenLM, given: Conditions, codes: torch.Tensor) -> torch.Tensor:
    return model.layout(codes.shape[2]).revert(model(codes, given).argmax(-1))


@pytest.mark.parametrize("rows", [4, 5, 24])
@pytest.mark.parametrize(("stage", "layout"), MODELS)
def test_favourites_step_by_step_are_those_of_one_pass(stage, layout, rows):
    """They tell whether steps and cache are right: guidance, or a place of the layout without a code, would not."""
    model, given, codes = _case(stage, layout, 7, 1.0)
    found = _engine(model, rows=rows).favourites(_requests(given, codes, range(7)))
    assert torch.equal(torch.stack(found), _favourites_of_one_pass(model, given, codes))


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize(("stage", "layout"), MODELS)
def test_the_compiled_step_has_the_favourites_of_the_plain_one(stage, layout, precision, monkeypatch):
    """Where activations are rounded, the last bit of a sum may bring one to the other side, and a near tie with it."""
    model, given, codes = _case(stage, layout, 3, 1.0)
    requests = _requests(given, codes, range(3))
    compiled = torch.stack(_engine(model, precision=precision).favourites(requests))
    monkeypatch.setattr("v2meow.generate.engine._state_class", lambda device: State)
    plain = torch.stack(_engine(model, precision=precision).favourites(requests))
    same = (compiled == plain).float().mean()
    assert same == 1 if precision in ("float32", "float16") else same > 0.9


@pytest.mark.parametrize(("stage", "layout"), MODELS)
def test_favourites_are_the_same_where_steps_run_as_graphs(stage, layout, monkeypatch):
    """Those of rows that nobody uses are computed there as well."""
    monkeypatch.setattr("v2meow.generate.engine._state_class", lambda device: State)
    model, given, codes = _case(stage, layout, 3, 1.0)
    engine = _engine(model)
    run, state = engine._run, engine._state
    engine._run = lambda extent: run(round_up(extent, state.rows, state.capacity))
    found = engine.favourites(_requests(given, codes, range(3)))
    assert torch.equal(torch.stack(found), _favourites_of_one_pass(model, given, codes))


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("stage", STAGES)
def test_favourites_leave_nothing_behind(stage, compiled, monkeypatch):
    """What is generated after a measurement is what would have been generated without it."""
    if not compiled:
        monkeypatch.setattr("v2meow.generate.engine._state_class", lambda device: State)
    model, given, known = _case(stage, "delay", 2, 0.3)
    engine = _engine(model)
    engine.favourites(_requests(given, known.clamp(min=0), (0, 1)))
    assert not engine.busy and engine.load == (0, 24, 0)
    tickets = [engine.submit(request) for request in _requests(given, known, (0, 1))]
    done = _finish(engine)
    assert torch.equal(torch.stack([done[ticket] for ticket in tickets]), _decode(model, given, known))


def test_favourites_are_asked_for_where_there_is_room():
    model, given, codes = _case("coarse", "delay", 1, 1.0, seconds=3 * SECONDS)
    with pytest.raises(ValueError, match="61 steps, it has room for 41"):
        _engine(model).favourites([Request(given, codes[0], 0)])


@pytest.mark.parametrize(("stage", "layout"), MODELS)
def test_a_model_that_is_bfloat16_throughout_decodes_as_on_a_gpu(stage, layout, monkeypatch):
    """There the step is not compiled, and every tensor must get along with every other."""
    monkeypatch.setattr("v2meow.generate.decoder.lower", lambda model, precision: model.to(torch.bfloat16))
    monkeypatch.setattr("v2meow.generate.engine._state_class", lambda device: State)
    model, given, known = _case(stage, layout, 2, 0.3)
    codes = _decode(model, given, known)
    assert codes.shape == known.shape and (codes >= 0).all()
    assert torch.equal(codes[known != UNKNOWN], known[known != UNKNOWN])


@pytest.mark.parametrize(("requests", "rows", "span"), [(1, 2, 3), (3, 5, 130), (8, 24, 41)])
def test_extents_are_rounded_up_to_few_and_never_down(requests, rows, span):
    """A graph for every length of every batch would fill the memory; one too small would cut requests off."""
    extent = Extent(requests=requests, rows=rows, span=span, memory=4, level=False, even=True, single=False, copies=3)
    rounded = round_up(extent, 24, 200)
    assert requests <= rounded.requests <= 24 and rows <= rounded.rows <= 24 and span <= rounded.span <= 200
    assert round_up(rounded, 24, 200) == rounded
    assert rounded.span % 128 == 0 or rounded.span == 200


@pytest.mark.parametrize(("stage", "layout"), MODELS)
def test_what_is_computed_beyond_the_extent_changes_nothing(stage, layout):
    """Steps that run as graphs cover rows and places that nobody uses."""
    model, given, known = _case(stage, layout, 3, 0.3)
    expected = _decode(model, given, known)
    engine = _engine(model)
    run, state = engine._run, engine._state
    engine._run = lambda extent: run(round_up(extent, state.rows, state.capacity))
    tickets = [engine.submit(request) for request in _requests(given, known, (0, 1, 2))]
    done = _finish(engine)
    assert torch.equal(torch.stack([done[ticket] for ticket in tickets]), expected)
