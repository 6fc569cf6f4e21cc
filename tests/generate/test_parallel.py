"""Decoding in a few passes against a plain loop over levels, and what its schedule and its queue promise."""

import itertools
import math
from dataclasses import replace

import pytest
import tiny
import torch

from v2meow.config import SamplingConfig, StageName
from v2meow.generate.linear import Precision
from v2meow.generate.parallel import ParallelEngine, keep, left_hidden, plan
from v2meow.generate.request import Request
from v2meow.generate.sampling import random_numbers
from v2meow.model.lm import Conditions, Stream, TokenLM, VisualInput
from v2meow.model.patterns import UNKNOWN
from v2meow.train.batches import training_batches
from v2meow.train.loop import train
from v2meow.train.state import TrainState
from v2meow.train.step import make_model

LEVELS, BINS = 3, 16
SECONDS = 0.4  # 20 codec frames
SAMPLED = SamplingConfig(temperature=1.0, top_k=0, top_p=1.0, guide_video=2.0, guide_text=1.0, passes=9)
GREEDY = replace(SAMPLED, top_k=1, passes=LEVELS)


def _model(stage: StageName = "fine") -> TokenLM:
    """A random stage of three levels; the coarse one sees pictures, too."""
    spec = tiny.model(stage, "parallel").spec
    visual = (VisualInput(width=4, rate=10.0),) if stage == "coarse" else ()
    torch.manual_seed(0)
    made = TokenLM(replace(spec, target=Stream(levels=LEVELS, bins=BINS, rate=50), visual=visual))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made.eval()


def _request(model, seed, known_share=0.0, seconds=SECONDS) -> Request:
    """A request of its own conditions, whose first frames are known."""
    codes, given = tiny.inputs(model, 1, seconds, seed)
    random = torch.Generator().manual_seed(seed)
    given.visual = tuple(torch.randn(1, round(seconds * v.rate), v.width, generator=random) for v in model.spec.visual)
    codes[..., round(known_share * codes.shape[2]) :] = UNKNOWN
    return Request(given, codes[0], seed)


def _engine(model, config=SAMPLED, rows=16, precision: Precision = "float32") -> ParallelEngine:
    return ParallelEngine(model, config, rows=rows, seconds=1.0, precision=precision)


def _decoded(engine, requests) -> list[torch.Tensor]:
    tickets, done = [engine.submit(request) for request in requests], {}
    while engine.busy:
        done |= engine.step()
    return [done[ticket] for ticket in tickets]


@torch.inference_mode()
def _greedy_by_hand(model, request: Request, config: SamplingConfig) -> torch.Tensor:
    """Level by level, the likeliest code of each frame; guidance as one plain forward for each term."""
    codes = request.known[None].clone()

    def logits(video: bool) -> torch.Tensor:
        given = replace(request.given, keep_video=torch.tensor([video]))
        return model(codes, given, codes == UNKNOWN)

    for level in range(codes.shape[1]):
        guided = logits(True)
        if model.spec.visual:
            guided = logits(False) + config.guide_video * (guided - logits(False))
        best = guided[:, :, level].argmax(-1)
        codes[:, level] = torch.where(codes[:, level] == UNKNOWN, best, codes[:, level])
    return codes[0]


@pytest.mark.parametrize("known_share", [0.0, 0.5])
@pytest.mark.parametrize("stage", ["fine", "coarse"])
def test_one_pass_a_level_is_the_plain_loop(stage, known_share):
    """A level read one too high, or a guidance row of another request, still makes music."""
    model = _model(stage)
    requests = [_request(model, seed, known_share) for seed in (1, 2)]
    expected = [_greedy_by_hand(model, request, GREEDY) for request in requests]
    for codes, plain in zip(_decoded(_engine(model, GREEDY), requests), expected, strict=True):
        assert torch.equal(codes, plain)


@pytest.mark.parametrize(("count", "passes"), [(1, 1), (20, 1), (20, 7), (150, 16), (20, 20), (500, 499)])
def test_the_cosine_schedule_ends_with_nothing_hidden_and_wastes_no_pass(count, passes):
    """A code that is still hidden at the end would be sung as -1."""
    left = left_hidden(count, passes)
    assert len(left) == passes and left[-1] == 0
    assert all(later < earlier for earlier, later in itertools.pairwise([count, *left]))
    for i, rest in enumerate(left, start=1):
        cosine = count * math.cos(math.pi / 2 * i / passes)
        assert rest <= cosine + 1e-9
        assert rest > cosine - 1 or rest == count - i  # later only where each pass has to keep a code


def test_the_first_level_gets_the_passes_that_the_others_leave():
    """It carries most of what is heard; the residuals above depend on it."""
    levels = [each.level for each in plan(torch.full((8, 40), UNKNOWN), 16)]
    assert levels == [0] * 9 + list(range(1, 8))
    assert [each.noise for each in plan(torch.full((8, 40), UNKNOWN), 11)] == [0.75, 0.5, 0.25] + 8 * [0.0]


def test_what_is_known_costs_no_pass():
    """A window that is nearly all context would otherwise take as long as a new one."""
    known = torch.full((3, 40), UNKNOWN)
    known[1] = 5
    assert [each.level for each in plan(known, 6)] == [0, 0, 0, 0, 2]
    known[0, 2:] = 5
    assert [each.level for each in plan(known, 6)] == [0, 0, 2]
    known[:] = 5
    assert plan(known, 6) == []


@pytest.mark.parametrize("known_share", [0.0, 0.5])
def test_every_pass_keeps_what_the_schedule_says_and_takes_nothing_back(known_share):
    """A code that changes after others were drawn to fit it is a wrong note."""
    model = _model()
    engine, request = _engine(model), _request(model, 3, known_share)
    engine.submit(request)
    codes, done = request.known, {}
    for each in plan(request.known, SAMPLED.passes):
        before = codes
        done = engine.step()
        codes = engine._inside[0].codes if engine._inside else next(iter(done.values()))
        unknown = (codes == UNKNOWN).sum(1)
        assert unknown[each.level] == each.left and (unknown[: each.level] == 0).all()
        assert torch.equal(codes[each.level + 1 :], before[each.level + 1 :])
        assert torch.equal(codes[before != UNKNOWN], before[before != UNKNOWN])
    assert done and not engine.busy
    assert ((codes >= 0) & (codes < BINS)).all()


def _kept(logits, codes, left, noise, temperature=1.0, seed=0) -> torch.Tensor:
    config = replace(SAMPLED, temperature=temperature)
    numbers = random_numbers(seed, torch.tensor([0]), 2 * len(codes))
    return keep(logits[None], codes[None], config, numbers, torch.tensor([left]), torch.tensor([noise]))[0]


def test_the_surest_draws_are_the_ones_to_stay():
    """Unsure ones kept first are what all later draws would have to fit."""
    torch.manual_seed(0)
    logits, codes = 3 * torch.randn(40, BINS), torch.full((40,), UNKNOWN)
    codes[::4] = 7
    drawn = _kept(logits, codes, left=0, noise=0.0)
    some = _kept(logits, codes, left=20, noise=0.0)
    sure = logits.log_softmax(-1).gather(-1, drawn[:, None])[:, 0]
    ranked = sorted((codes == UNKNOWN).nonzero().flatten().tolist(), key=lambda frame: float(sure[frame]))
    assert (some == UNKNOWN).nonzero().flatten().tolist() == sorted(ranked[:20])
    assert torch.equal(some[some != UNKNOWN], drawn[some != UNKNOWN])


def test_noise_shuffles_what_stays_and_falls_with_the_temperature():
    """Without it all seeds begin with the same frames; near temperature nought nothing is left to chance."""
    torch.manual_seed(0)
    logits, codes = torch.zeros(40, BINS), torch.full((40,), UNKNOWN)
    logits[:, 0] = 9.0 + torch.rand(40)
    first, other = ((_kept(logits, codes, 20, 1.0, seed=seed) == UNKNOWN) for seed in (1, 2))
    assert not torch.equal(first, other)
    cold, colder = ((_kept(logits, codes, 20, 1.0, 1e-5, seed) == UNKNOWN) for seed in (1, 2))
    assert torch.equal(cold, colder)


def test_frames_and_passes_are_drawn_independently():
    """Random numbers that repeat from frame to frame would make a hum of any uncertainty.

    A chi-square statistic of 15 degrees of freedom exceeds 55 once in half a million runs.
    """
    frames, config = 4000, replace(SAMPLED, temperature=1.0)
    codes = torch.full((2, frames), UNKNOWN)
    numbers, nought = random_numbers(0, torch.arange(2), 2 * frames), torch.zeros(2, dtype=torch.int64)
    drawn = keep(torch.zeros(2, frames, 4), codes, config, numbers, nought, torch.zeros(2))
    for one, other in ((drawn[0, :-1], drawn[0, 1:]), (drawn[0], drawn[1])):
        pairs = torch.bincount(4 * one + other, minlength=16).double()
        expected = len(one) / 16
        assert ((pairs - expected) ** 2 / expected).sum() < 55


def test_levels_are_drawn_independently():
    """Each pass has random numbers of its own: with those of the pass before, an unsure level repeats the one below."""
    model = _model()
    torch.nn.init.zeros_(model.head.weight)
    (codes,) = _decoded(_engine(model, replace(SAMPLED, passes=LEVELS)), [_request(model, 0, seconds=1.0)])
    for one, other in itertools.combinations(codes, 2):
        assert (one == other).float().mean() < 0.3  # by chance 0.06


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16", "int8", "int5"])
@pytest.mark.parametrize("stage", ["fine", "coarse"])
def test_whoever_joins_and_whenever_a_request_gives_what_it_gives_alone(stage, precision: Precision):
    """Whom a request is batched with is chance; its music is not."""
    model = _model(stage)
    engine = _engine(model, precision=precision)
    requests = [_request(model, 5), _request(model, 6, 0.3), _request(model, 7, seconds=0.2), _request(model, 8)]
    alone = [_decoded(engine, [request])[0] for request in requests]
    tickets, done = [engine.submit(requests[0])], {}
    done |= engine.step() | engine.step()
    tickets += [engine.submit(request) for request in requests[1:]]
    while engine.busy:
        done |= engine.step()
    for ticket, codes in zip(tickets, alone, strict=True):
        assert torch.equal(done[ticket], codes)


def test_the_seed_alone_decides():
    model = _model()
    engine, request = _engine(model), _request(model, 3)
    (codes,) = _decoded(engine, [request])
    torch.manual_seed(99)  # the global stream must not matter
    assert torch.equal(_decoded(engine, [request])[0], codes)
    assert not torch.equal(_decoded(engine, [replace(request, seed=4)])[0], codes)


def test_context_that_is_known_changes_what_follows():
    """Carried over codes that the model does not see would be a cut at every window."""
    model = _model()
    request = _request(model, 3, 0.5)
    other = torch.where(request.known == UNKNOWN, UNKNOWN, (request.known + 1) % BINS)
    ours, theirs = _decoded(_engine(model, GREEDY), [request, replace(request, known=other)])
    assert not torch.equal(ours[request.known == UNKNOWN], theirs[request.known == UNKNOWN])


def test_shapes_take_turns_so_that_nobody_waits_for_ever():
    """Windows of one length that keep coming must not shut out the last, shorter window of a piece."""
    model = _model()
    engine, long, short = _engine(model), _request(model, 1), _request(model, 2, seconds=0.2)
    engine.submit(long)
    ticket, done = engine.submit(short), {}
    for _ in range(2 * SAMPLED.passes):
        engine.submit(long)
        done |= engine.step()
    assert ticket in done


def test_rows_limit_who_is_inside_and_the_first_come_goes_first():
    """Guidance doubles the rows of a request; memory is planned by rows."""
    model = _model("coarse")
    engine = _engine(model, rows=5)
    tickets = [engine.submit(_request(model, seed)) for seed in range(4)]
    assert engine.load == (0, 5, 4)
    finished, loads = [], []
    while engine.busy:
        finished += engine.step()
        loads.append(engine.load)
    assert loads[0] == (4, 5, 2) and max(used for used, _, _ in loads) == 4
    assert finished == tickets and loads[-1] == (0, 5, 0)
    assert len(loads) == 2 * SAMPLED.passes  # two at a time, as one batch


def test_whole_frames_can_be_seen_before_the_end():
    """A listener is given what will not change any more, and nothing else."""
    model = _model()
    engine, request = _engine(model), _request(model, 3, 0.25)
    ticket = engine.submit(request)
    assert engine.peek(ticket).shape == (LEVELS, 0)  # it waits
    engine.step()
    assert torch.equal(engine.peek(ticket), request.known[:, :5])
    seen, done = engine.peek(ticket), {}
    while not done:
        seen, done = engine.peek(ticket), engine.step()
        assert (seen != UNKNOWN).all() and torch.equal(seen[:, :5], request.known[:, :5])
    assert torch.equal(done[ticket][:, : seen.shape[1]], seen)
    assert engine.peek(ticket).shape == (LEVELS, 0)


def test_a_cancelled_request_is_gone_and_the_others_go_on():
    """Whoever hangs up must not keep the machine busy."""
    model = _model()
    engine = _engine(model, rows=2)
    requests = [_request(model, seed) for seed in range(3)]
    inside, kept, waiting = (engine.submit(request) for request in requests)
    engine.step()
    for ticket in (inside, waiting, 99):
        engine.cancel(ticket)
    assert engine.load == (1, 2, 0)
    done = {}
    while engine.busy:
        done |= engine.step()
    assert list(done) == [kept] and torch.equal(done[kept], _decoded(engine, [requests[1]])[0])


def test_where_all_is_known_nothing_is_computed():
    """The last window of a piece may lie wholly within what was made before."""
    model = _model()
    engine, request = _engine(model), _request(model, 3, 1.0)
    model.register_forward_hook(lambda *_: pytest.fail("was asked to predict what is known"))
    assert torch.equal(_decoded(engine, [request])[0], request.known)


def test_what_can_never_fit_is_refused_at_the_door():
    """Queued, it would stop all who come behind it for ever."""
    model = _model("coarse")
    with pytest.raises(ValueError, match=r"a window of 60 frames in 2 rows does not fit into .* 50 frames and 16 rows"):
        _engine(model).submit(_request(model, 0, seconds=1.2))
    with pytest.raises(ValueError, match=r"in 2 rows does not fit into an engine of 50 frames and 1 rows"):
        _engine(model, rows=1).submit(_request(model, 0))


def _learnt(codes_of, steps: int) -> tuple[TokenLM, Conditions, torch.Tensor]:
    """A fine stage that was trained on codes [N, 2, T] made by `codes_of` from coarse ones, and eight it never saw."""
    changes = {"batch": 16, "learning_rate": 0.01, "steps": steps, "warmup_steps": 10}
    recipe = tiny.recipe(tiny.laid_out("fine", "parallel") | {f"stages.fine.{key}": changes[key] for key in changes})
    examples = tiny.examples(recipe, 256)
    examples.codes[:, 2:] = codes_of(examples.codes[:, :2])
    torch.manual_seed(0)
    model, config = make_model(recipe, "fine", examples), recipe.stages.fine
    seen = examples.select(list(range(8, 256)))
    train(TrainState(model, config), training_batches(recipe, "fine", seen), config, 1e12, lambda report: None)
    return model, Conditions(prefix=examples.codes[:8, :2, :50]), examples.codes[:8, 2:, :50]


def _redecoded(model, given: Conditions, shape, passes: int) -> torch.Tensor:
    engine = _engine(model, replace(SAMPLED, passes=passes))
    unknown = torch.full(shape[1:], UNKNOWN)
    assert given.prefix is not None
    rows = [Conditions(prefix=prefix[None]) for prefix in given.prefix]
    return torch.stack(_decoded(engine, [Request(row, unknown, seed) for seed, row in enumerate(rows)]))


def test_what_the_prefix_determines_is_learnt_and_decoded():
    """Masks that show what is asked for, or ask for what is shown, train a model that decodes noise."""
    order = torch.randperm(BINS, generator=torch.Generator().manual_seed(0))

    def codes_of(coarse):
        return torch.stack((order[coarse[:, 0]], order[order[coarse[:, 0]]]), 1)

    model, given, codes = _learnt(codes_of, 200)
    assert (_redecoded(model, given, codes.shape, 6) == codes).float().mean() > 0.9  # by chance 0.06


def test_more_passes_make_frames_agree():
    """That is what passes are for: codes of one pass are drawn without knowing of each other."""

    def codes_of(coarse):
        tone = torch.randint(0, BINS, (len(coarse), 1, 1), generator=torch.Generator().manual_seed(1))
        return tone.expand(-1, 2, coarse.shape[2]).clone()

    model, given, codes = _learnt(codes_of, 200)
    once, often = (_redecoded(model, given, codes.shape, passes)[:, 0] for passes in (2, 16))

    def agreement(level):
        return (level == level.mode(1).values[:, None]).float().mean()

    assert agreement(often) > 0.8 and agreement(once) < 0.4
