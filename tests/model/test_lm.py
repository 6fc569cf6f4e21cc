"""The token language model: what its logits may and may not see, and that the cache changes nothing."""

import itertools

import pytest
import tiny
import torch

from v2meow.config import STAGES
from v2meow.model.lm import token_losses
from v2meow.model.patterns import layout

MODELS = list(itertools.product(STAGES, ("delay", "flatten")))
SECONDS = 0.2  # 5 semantic ids, 10 codec frames, 2 pictures


def _recorded(modules) -> list[torch.Tensor]:
    """What the modules put out from now on, to take gradients by."""
    record = []
    for module in modules:
        module.register_forward_hook(lambda _module, _inputs, out: record.append(out))
    return record


@pytest.mark.parametrize(("stage", "name"), MODELS)
def test_a_step_sees_all_steps_before_it_and_none_after(stage, name):
    """Seeing the future, it would learn to copy it, and generate noise."""
    model = tiny.model(stage, name)
    codes, given = tiny.inputs(model, 1, SECONDS)
    embedded = _recorded(model.embed)
    logits = model(codes, given)
    for step in range(logits.shape[1]):
        gradients = torch.autograd.grad(logits[0, step].square().sum(), embedded, retain_graph=True)
        reach = torch.stack([gradient[0].abs().sum(-1) for gradient in gradients])  # [K, S]
        assert (reach[:, : step + 1] > 0).all(), step
        assert (reach[:, step + 1 :] == 0).all(), step


@pytest.mark.parametrize(("stage", "name"), MODELS)
def test_the_inputs_of_a_step_are_the_codes_of_the_step_before(stage, name):
    """One step more or less of shift, and a code would be predicted from itself, or from too little."""
    model = tiny.model(stage, name)
    codes, given = tiny.inputs(model, 1, SECONDS)
    made = model.layout(codes.shape[2])
    before = model(codes, given)
    for step, codebook in made.places.nonzero().tolist():
        other = codes.clone()
        other[:, codebook, made.frame[step, codebook]] += 1
        other %= model.spec.target.bins
        changed = (model(other, given) - before).abs().amax((0, 2, 3)) > 1e-6
        assert changed.tolist() == [later > step for later in range(made.steps)]


@pytest.mark.parametrize(("stage", "name"), MODELS)
def test_every_condition_reaches_every_step(stage, name):
    """A model that cannot see the picture still has a falling loss."""
    model = tiny.model(stage, name)
    codes, given = tiny.inputs(model, 1, SECONDS)
    sources = [features.requires_grad_() for features in given.visual]
    if given.joint is not None:
        sources.append(given.joint.requires_grad_())
    if given.prefix is not None:
        sources = _recorded(model.embed_prefix)
    logits = model(codes, given)
    for step in range(logits.shape[1]):
        gradients = torch.autograd.grad(logits[0, step].square().sum(), sources, retain_graph=True)
        assert all((gradient.abs().sum(-1) > 0).all() for gradient in gradients), step


def _half_hidden(stage):
    """A model of layout parallel, its inputs, and a random half of the codes hidden."""
    model = tiny.model(stage, "parallel")
    codes, given = tiny.inputs(model, 1, SECONDS)
    hidden = torch.rand(codes.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    return model, codes, given, hidden


@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_in_layout_parallel_a_hidden_code_shows_nowhere(stage):
    """It is what is asked for: a trace of it, and the model learns to copy instead of to compose."""
    model, codes, given, hidden = _half_hidden(stage)
    other = torch.where(hidden, (codes + 1) % model.spec.target.bins, codes)
    assert torch.equal(model(other, given, hidden), model(codes, given, hidden))


@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_in_layout_parallel_every_visible_code_and_condition_reaches_every_frame(stage):
    """What comes later is known, too: a frame that cannot see it does not lead there."""
    model, codes, given, hidden = _half_hidden(stage)
    sources = _recorded([*model.embed, *model.embed_prefix])
    logits = model(codes, given, hidden)
    for step in range(logits.shape[1]):
        gradients = torch.autograd.grad(logits[0, step].square().sum(), sources, retain_graph=True)
        assert all((gradient.abs().sum(-1) > 0).all() for gradient in gradients), step
    before = logits
    for codebook, frame in (~hidden[0]).nonzero().tolist():
        other = codes.clone()
        other[0, codebook, frame] = (other[0, codebook, frame] + 1) % model.spec.target.bins
        assert ((model(other, given, hidden) - before).abs().amax((0, 2, 3)) > 1e-6).all()


def test_a_dropped_condition_leaves_no_trace():
    """Guidance subtracts the logits without the picture; with a trace of it left, it would steer away from it."""
    model = tiny.model("semantic")
    codes, given = tiny.inputs(model, 2, SECONDS)
    _, other = tiny.inputs(model, 2, SECONDS, seed=9)
    kept, dropped = torch.tensor([True, True]), torch.tensor([False, False])

    def logits(visual, joint, keep_video, keep_text):
        given.visual, given.joint, given.keep_video, given.keep_text = visual, joint, keep_video, keep_text
        return model(codes, given)

    both, visual, joint = logits(given.visual, given.joint, kept, kept), given.visual, given.joint
    without_video = logits(visual, joint, dropped, kept)
    assert torch.equal(without_video, logits(other.visual, joint, dropped, kept))
    assert not torch.allclose(without_video, both)
    without_text = logits(visual, joint, kept, dropped)
    assert torch.equal(without_text, logits(visual, other.joint, kept, dropped))
    assert torch.equal(without_text, logits(visual, None, kept, None))
    assert not torch.allclose(without_text, both)


def test_conditions_are_dropped_row_by_row():
    """Training drops some rows of a batch, guidance others: no row may answer for its neighbour."""
    model = tiny.model("semantic")
    codes, given = tiny.inputs(model, 2, SECONDS)
    kept = model(codes, given)
    given.keep_video, given.keep_text = torch.tensor([True, False]), torch.tensor([True, True])
    mixed = model(codes, given)
    torch.testing.assert_close(mixed[0], kept[0])
    assert not torch.allclose(mixed[1], kept[1], atol=1e-3)


def test_a_coarse_stage_may_see_the_picture_as_well():
    """Its codes must answer to the frames, and to none of them where the picture is dropped."""
    model = tiny.model("coarse", changes={"stages.coarse_sees_video": True})
    codes, given = tiny.inputs(model, 2, SECONDS)
    _, other = tiny.inputs(model, 2, SECONDS, seed=9)
    assert given.prefix is not None and given.visual
    seen = model(codes, given)
    assert seen.shape == (2, 11, 2, 16)
    given.keep_video = torch.tensor([True, False])
    dropped = model(codes, given)
    torch.testing.assert_close(dropped[0], seen[0])
    given.visual = other.visual
    elsewhere = model(codes, given)
    assert not torch.allclose(elsewhere[0], dropped[0], atol=1e-3)
    assert torch.equal(elsewhere[1], dropped[1])


@pytest.mark.parametrize(("stage", "name", "steps_an_id"), [("coarse", "delay", 2), ("coarse", "flatten", 4)])
def test_a_prefix_lines_up_with_its_target_in_time(stage, name, steps_an_id):
    """Semantic id 10 sounds when codec frame 20 does; counted in places, they would drift apart."""
    model = tiny.model(stage, name)
    codes, given = tiny.inputs(model, 1, SECONDS)
    angles = []
    model.blocks[0].register_forward_pre_hook(lambda _module, arguments: angles.append(arguments[1]))
    model(codes, given)
    assert given.prefix is not None
    ids = given.prefix.shape[2]
    for turned in angles[0]:
        torch.testing.assert_close(turned[:ids], turned[ids::steps_an_id][:ids])


def test_pictures_line_up_with_ids_in_time():
    """The encoder's places carry the times of the pictures, whatever the extractor's rate."""
    model = tiny.model("semantic")
    codes, given = tiny.inputs(model, 1, 2.0)
    angles = []
    model.encoder[0].register_forward_pre_hook(lambda _module, arguments: angles.append(arguments[1]))
    model.blocks[0].register_forward_pre_hook(lambda _module, arguments: angles.append(arguments[1]))
    model(codes, given)
    pictures, ids = angles[0][0], angles[1][0]
    torch.testing.assert_close(pictures[:20:2], ids[::5])  # both every 0.2 s


def test_visual_features_are_normalised_by_what_the_model_keeps():
    """Statistics that are not saved with the weights would differ where the model is used."""
    model = tiny.model("semantic")
    codes, given = tiny.inputs(model, 1, SECONDS)
    model.visual_mean.zero_()
    model.visual_std.fill_(1.0)
    plain = model(codes, given)
    model.visual_mean.fill_(3.0)
    model.visual_std.fill_(2.0)
    given.visual = tuple(2 * features + 3 for features in given.visual)
    torch.testing.assert_close(model(codes, given), plain, atol=1e-4, rtol=1e-4)
    assert {"visual_mean", "visual_std"} <= set(model.state_dict())


@pytest.mark.parametrize("name", ["delay", "flatten", "parallel"])
def test_losses_are_the_cross_entropy_of_each_code_at_its_own_place(name):
    """The loss of a level or a frame read at another place would steer training and gate alike."""
    torch.manual_seed(0)
    batch, codebooks, frames, bins = 2, 3, 4, 5
    made, codes = layout(name, codebooks, frames), torch.randint(0, bins, (batch, codebooks, frames))
    logits = torch.randn(batch, made.steps, codebooks, bins)
    losses = token_losses(logits, codes, made)
    for row, codebook, frame in itertools.product(range(batch), range(codebooks), range(frames)):
        step = {"delay": frame + codebook, "flatten": frame * codebooks + codebook, "parallel": frame}[name]
        expected = -logits[row, step, codebook].log_softmax(-1)[codes[row, codebook, frame]]
        torch.testing.assert_close(losses[row, codebook, frame], expected)
