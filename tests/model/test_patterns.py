"""Layouts put every code at exactly one place, and never before what it may depend on."""

import itertools

import pytest
import torch

from v2meow.model.patterns import NOTHING, layout

LAYOUTS = ("delay", "flatten", "parallel")
SHAPES = [(name, k, t) for name, k, t in itertools.product(LAYOUTS, (1, 2, 3, 8), (1, 2, 5, 40))]


@pytest.mark.parametrize(("name", "codebooks", "frames"), SHAPES)
def test_codes_come_back_from_their_sequence(name, codebooks, frames):
    """A code at the wrong place is another frame's or another level's sound."""
    codes = torch.arange(2 * codebooks * frames).view(2, codebooks, frames)
    made = layout(name, codebooks, frames)
    sequence = made.build(codes, -7)
    assert sequence.shape == (2, made.steps, codebooks)
    assert torch.equal(made.revert(sequence), codes)
    assert (sequence == -7).sum() == 2 * (~made.places).sum()


@pytest.mark.parametrize(("name", "codebooks", "frames"), SHAPES)
def test_each_code_stands_at_the_step_that_the_layout_promises(name, codebooks, frames):
    """Causal decoding relies on it: level k of a frame comes after levels 0 … k - 1 of the same frame."""
    made = layout(name, codebooks, frames)
    for codebook, frame in itertools.product(range(codebooks), range(frames)):
        expected = {"delay": frame + codebook, "flatten": frame * codebooks + codebook, "parallel": frame}[name]
        assert (made.frame[:, codebook] == frame).nonzero().flatten().tolist() == [expected]
    assert made.steps == {"delay": frames + codebooks - 1, "flatten": frames * codebooks, "parallel": frames}[name]


def test_flattened_steps_carry_one_code_each():
    assert (layout("flatten", 4, 6).places.sum(1) == 1).all()


def test_a_delayed_sequence_looks_like_this():
    """The figure of MusicGen, section 2.2, as numbers."""
    assert layout("delay", 3, 2).frame.tolist() == [
        [0, NOTHING, NOTHING],
        [1, 0, NOTHING],
        [NOTHING, 1, 0],
        [NOTHING, NOTHING, 1],
    ]


def test_an_unknown_layout_is_named():
    with pytest.raises(ValueError, match="layout 'zigzag' is not one of delay, flatten, parallel"):
        layout("zigzag", 2, 2)
