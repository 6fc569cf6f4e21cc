"""Target and conditions of a batch are cut at the same time, from the same examples, at the right levels."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, pairwise

import pytest
import tiny
import torch

from v2meow.config import STAGES
from v2meow.data.dataset import Examples
from v2meow.train.batches import held_out_batches, hide, make_batch, training_batches


@pytest.fixture
def recipe():
    """Every stage sees one second of clips of two."""
    return tiny.recipe({f"stages.{stage}.window_seconds": 1.0 for stage in STAGES} | {"generate.context_seconds": 0.5})


@pytest.fixture
def telling(recipe) -> Examples:
    """Examples whose values tell where they stand: 1,000,000 row + 1000 level + frame."""
    made = tiny.examples(recipe, 6)

    def place(shape: torch.Size) -> torch.Tensor:
        row, level, frame = (torch.arange(size) for size in shape)
        return 1_000_000 * row[:, None, None] + 1000 * level[:, None] + frame

    visual = tuple(place(features.transpose(1, 2).shape).transpose(1, 2).double() for features in made.visual)
    joint = torch.arange(6)[:, None].expand_as(made.joint)
    return replace(made, semantic=place(made.semantic.shape), codes=place(made.codes.shape), visual=visual, joint=joint)


def _batches(recipe, stage, examples, count=30):
    return list(islice(training_batches(recipe, stage, examples), count))


def _prefixed(recipe, stage, examples) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Target and prefix of thirty batches."""
    for batch in _batches(recipe, stage, examples):
        assert batch.conditions.prefix is not None
        yield batch.codes, batch.conditions.prefix


def test_coarse_codes_begin_where_their_ids_begin(recipe, telling):
    """An offset rounded differently for 25 Hz and 50 Hz would shift condition against target."""
    firsts = set()
    for codes, ids in _prefixed(recipe, "coarse", telling):
        assert codes.shape == (4, 2, 50) and ids.shape == (4, 1, 25)
        assert torch.equal(codes[:, 0, ::2] // 1_000_000, ids[:, 0] // 1_000_000)
        assert torch.equal(codes[:, 0, ::2] % 1000, 2 * (ids[:, 0] % 1000))
        assert (codes // 1000 % 1000)[0, :, 0].tolist() == [0, 1]
        firsts.add(int(codes[0, 0, 0] % 1000))
    assert len(firsts) > 10  # windows are drawn anew


def test_fine_codes_begin_where_their_coarse_codes_begin(recipe, telling):
    for codes, coarse in _prefixed(recipe, "fine", telling):
        assert codes.shape == coarse.shape == (4, 2, 50)
        assert torch.equal(codes - 2000, coarse)  # the same place, two levels higher


def test_ids_are_conditioned_on_the_pictures_of_their_own_window(recipe, telling):
    """Pictures come at 10 Hz, so a window is met to within half a picture."""
    for batch in _batches(recipe, "semantic", telling):
        (visual,), joint = batch.conditions.visual, batch.conditions.joint
        assert joint is not None
        assert batch.codes.shape == (4, 1, 25) and visual.shape == (4, 10, tiny.WIDTH)
        assert torch.equal(batch.codes[:, 0, 0] // 1_000_000, joint[:, 0])
        assert torch.equal(visual[:, 0, 0].long() // 1_000_000, joint[:, 0])
        late = (visual[:, 0, 0] % 1000) / 10 - (batch.codes[:, 0, 0] % 1000) / 25
        assert late.abs().max() <= 0.05 + 1e-9


@pytest.mark.parametrize("stage", STAGES)
def test_batches_depend_on_the_seed_alone(recipe, telling, stage):
    first, again = (_batches(recipe, stage, telling, 5) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.codes, other.codes)
        torch.testing.assert_close(one.conditions.keep_text, other.conditions.keep_text)
    changed = _batches(replace(recipe, seed=recipe.seed + 1), stage, telling, 5)
    assert not all(torch.equal(one.codes, other.codes) for one, other in zip(first, changed, strict=True))


@pytest.mark.parametrize("stage", STAGES)
def test_batches_from_a_later_step_on_are_those_of_that_step(recipe, telling, stage):
    """Windows and dropped conditions belong to the step, not to how many batches were drawn before."""
    whole, rest = _batches(recipe, stage, telling, 5), islice(training_batches(recipe, stage, telling, 2), 3)
    for one, other in zip(whole[2:], rest, strict=True):
        assert torch.equal(one.codes, other.codes)
        torch.testing.assert_close(one.conditions.keep_text, other.conditions.keep_text)


def test_held_out_examples_are_each_seen_once_with_all_conditions(recipe, telling):
    """A loss over random windows or dropped conditions could not be compared from run to run."""
    batches = list(held_out_batches(recipe, "semantic", telling))
    assert [len(batch.codes) for batch in batches] == [4, 2]
    assert torch.cat([batch.codes[:, 0, 0] for batch in batches]).tolist() == [1_000_000 * row for row in range(6)]
    assert all(batch.conditions.keep_video is None and batch.conditions.keep_text is None for batch in batches)


def _masks(level, levels, frames, count=4000) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.stack([hide(level, levels, frames, random) for _ in range(count)])


def _first(masks) -> torch.Tensor:
    """The first frame that is not all visible above the level, as far as the known music reaches."""
    return masks.any(1).int().argmax(1)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_levels_below_are_visible_and_levels_above_hidden(level):
    """Decoding goes up level by level: what it will not have then must not be seen, what it has must."""
    masks = _masks(level, 4, 20, 200)
    assert not masks[:, :level].any()
    assert masks[:, level].any(1).all()  # else the example teaches nothing
    for mask, first in zip(masks, _first(masks), strict=True):
        assert mask[level + 1 :, first:].all() and not mask[:, :first].any()


def test_half_of_the_masks_continue_music_from_anywhere():
    """Windows continue what is known, except the first of a piece, which must not be a rarity."""
    first = _first(_masks(0, 2, 20))
    expected = 0.5 * (torch.arange(20) == 0) + 0.5 / 20
    found = torch.bincount(first, minlength=20) / len(first)
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0)


def test_as_much_is_hidden_as_decoding_will_find_hidden():
    """The share after a uniform share u of the passes is cos(pi / 2 u): its distribution is 2 / pi arccos."""
    masks = _masks(0, 2, 200)
    shares = masks[_first(masks) == 0][:, 0].float().mean(1)
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        found = (shares > share).float().mean().item()
        assert found == pytest.approx(2 / torch.pi * torch.tensor(share).acos().item(), abs=0.04)
    assert _masks(0, 2, 1, 10).all()  # a frame alone is hidden, too


@pytest.fixture
def parallel(recipe):
    changes = {f"stages.{stage}.window_seconds": 1.0 for stage in STAGES} | {"generate.context_seconds": 0.5}
    return tiny.recipe(changes | tiny.laid_out("coarse", "parallel") | {"codec.levels": 6, "stages.coarse_levels": 4})


def test_masks_depend_on_seed_and_step_alone(parallel):
    """Training that goes on after a checkpoint would otherwise hide other codes, and end elsewhere."""
    examples = tiny.examples(parallel, 6)
    whole, rest = _batches(parallel, "coarse", examples, 6), training_batches(parallel, "coarse", examples, 3)
    for one, other in zip(whole[3:], islice(rest, 3), strict=True):
        assert one.hidden is not None and other.hidden is not None and torch.equal(one.hidden, other.hidden)
    masks = [batch.hidden for batch in whole if batch.hidden is not None]
    assert not any(torch.equal(one, other) for one, other in pairwise(masks))
    assert {int(level) for mask in masks for level in mask.any(2).int().argmax(1)} == {0, 1, 2, 3}


def test_held_out_examples_are_hidden_alike_in_every_run_and_once_at_every_level(parallel):
    """Losses of other masks cannot be compared; a level that nobody drew would have none."""
    examples = tiny.examples(parallel, 6)

    def seen(batch: int) -> dict[tuple[int, int], torch.Tensor]:
        size = replace(parallel, stages=replace(parallel.stages, coarse=replace(parallel.stages.coarse, batch=batch)))
        found = {}
        for made in held_out_batches(size, "coarse", examples):
            assert made.hidden is not None
            for codes, mask in zip(made.codes, made.hidden, strict=True):
                row = next(r for r in range(6) if torch.equal(examples.codes[r, :4, :50], codes))
                key = (row, int(mask.any(1).int().argmax()))
                assert key not in found
                found[key] = mask
        return found

    first, again = seen(4), seen(5)
    assert first.keys() == again.keys() == {(row, level) for row in range(6) for level in range(4)}
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_other_layouts_hide_nothing(recipe, telling):
    assert next(training_batches(recipe, "fine", telling)).hidden is None
    assert next(held_out_batches(recipe, "fine", telling)).hidden is None


def test_a_window_as_long_as_the_clip_has_one_place():
    recipe = tiny.recipe()
    examples = tiny.examples(recipe, 3)
    for batch in _batches(recipe, "semantic", examples, 3):
        assert batch.codes.shape[2] == recipe.semantic_frames
    whole = make_batch(recipe, "coarse", examples, torch.tensor([2]))
    assert torch.equal(whole.codes, examples.codes[2:, :2])
