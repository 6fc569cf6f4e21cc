"""Target and conditions of a batch are cut at the same time, from the same examples, at the right levels."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import pytest
import tiny
import torch

from v2meow.config import STAGES
from v2meow.data.dataset import Examples
from v2meow.train.batches import held_out_batches, make_batch, training_batches


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


def test_held_out_examples_are_each_seen_once_with_all_conditions(recipe, telling):
    """A loss over random windows or dropped conditions could not be compared from run to run."""
    batches = list(held_out_batches(recipe, "semantic", telling))
    assert [len(batch.codes) for batch in batches] == [4, 2]
    assert torch.cat([batch.codes[:, 0, 0] for batch in batches]).tolist() == [1_000_000 * row for row in range(6)]
    assert all(batch.conditions.keep_video is None and batch.conditions.keep_text is None for batch in batches)


def test_a_window_as_long_as_the_clip_has_one_place():
    recipe = tiny.recipe()
    examples = tiny.examples(recipe, 3)
    for batch in _batches(recipe, "semantic", examples, 3):
        assert batch.codes.shape[2] == recipe.semantic_frames
    whole = make_batch(recipe, "coarse", examples, torch.tensor([2]))
    assert torch.equal(whole.codes, examples.codes[2:, :2])
