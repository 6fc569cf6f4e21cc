"""What the benchmark of a whole piece decodes."""

import math

import pytest

from benchmarks.decode import SOUNDSTREAM_RATE, piece_spec
from v2meow.config import load_recipe, recipe_path
from v2meow.model.patterns import layout

RECIPE = load_recipe(recipe_path("paper"))


@pytest.mark.parametrize(
    ("name", "seconds", "encodec", "soundstream"),
    [("semantic", 10, 250, 250), ("coarse", 10, 753, 503), ("fine", 3, 228, 153)],
)
def test_a_piece_has_the_steps_of_its_codec(name, seconds, encodec, soundstream):
    """A prefix that kept the other rate would be read at other times than its sound."""
    for rate, steps in ((RECIPE.codec.rate, encodec), (SOUNDSTREAM_RATE, soundstream)):
        spec = piece_spec(RECIPE, name, rate)
        assert layout(spec.layout, spec.target.levels, math.ceil(seconds * spec.target.rate)).steps == steps
        assert spec.prefix is None or spec.prefix.rate == (RECIPE.semantic_ids.rate if name == "coarse" else rate)
