"""Values of visual extractors that cannot work are named before anything is read, and so is what they read."""

from typing import Any

import pytest
import tiny

from v2meow.config import RecipeError

CLIP = {"kind": "clip", "asset": "clip", "model": "ViT-B-32", "rate": 1.0, "batch": 8, "bfloat16": True}
FLOW = {
    "kind": "i3d-flow",
    "asset": "i3d",
    "rate": 1.0,
    "frame_rate": 25.0,
    "window_frames": 16,
    "batch": 2,
    "bfloat16": False,
}
TOKENS = {"kind": "vq-tokens", "asset": "vq", "rate": 2.0, "size": 256, "grid": 4, "batch": 8, "bfloat16": False}


def _problems(extractor: dict[str, Any]) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        tiny.recipe({"visual": [extractor]})
    return [line.strip().split(": ")[0] for line in str(caught.value).splitlines()[1:]]


def test_what_is_read_is_known_from_the_recipe():
    """Processes that decode hold no weights."""
    visual = tiny.recipe({"visual": [CLIP, FLOW, TOKENS, {"kind": "motion", "rate": 10.0, "size": 64}]}).visual
    read = [(extractor.frame_rate, extractor.size, extractor.whole) for extractor in visual]
    assert read == [(1.0, 640, True), (25.0, 256, True), (2.0, 256, False), (10.0, 64, False)]
    assert [extractor.context_seconds for extractor in visual] == [0.0, 9 / 25, 0.0, 0.1]


@pytest.mark.parametrize(
    ("extractor", "key", "value"),
    [
        (CLIP, "rate", 0.0),
        (CLIP, "rate", 0.75),  # a clip of 2 s would have a row and a half
        (CLIP, "batch", 0),
        (FLOW, "frame_rate", 24.5),
        (FLOW, "frame_rate", 0.0),
        (FLOW, "window_frames", 7),
        (TOKENS, "grid", 0),
        (TOKENS, "size", 0),
    ],
)
def test_values_that_cannot_work_are_named(extractor, key, value):
    assert _problems(extractor | {key: value}) == [f"visual[0].{key}"]
