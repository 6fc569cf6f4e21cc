"""Baselines are what they say: other clips' music, the nearest picture's music, and music that saw no picture."""

from dataclasses import replace

import numpy as np
import pytest
import scenes
import tiny
import torch

from v2meow.evaluate import baselines
from v2meow.evaluate.profile import Yardstick, better, nested
from v2meow.generate.parts import PromptError


def test_random_tracks_are_different_training_clips(material):
    """The same few over and over would look like a model without diversity."""
    music = baselines.random_tracks(material)
    rows = [
        next(row for row in range(len(material.train)) if torch.equal(codes, material.train.codes[row]))
        for codes in music.codes
    ]
    assert len(set(rows)) == len(material.examples)
    assert music.waveforms.shape == material.real.waveforms.shape


def test_the_nearest_track_is_that_of_the_most_similar_picture(material):
    """With the held-out pictures among the training clips, each finds itself."""
    among = replace(material, train=material.examples)
    assert torch.equal(baselines.nearest_tracks(among).codes, material.examples.codes)


def test_an_unseeing_model_is_one_whose_video_was_dropped():
    """A picture of zeros would be a picture still: a black one, that asks for quiet music."""
    model = tiny.model("semantic")
    codes, given = tiny.inputs(model, 2, 1.0)
    with torch.inference_mode():
        dropped = model(codes, replace(given, keep_video=torch.zeros(2, dtype=torch.bool)))
        seen = model(codes, given)
        blind = baselines.without_sight(model)(codes, given)
    torch.testing.assert_close(blind, dropped)
    assert not torch.allclose(blind, seen)


def test_music_from_text_alone_does_not_know_the_picture(material):
    few = replace(material, examples=material.examples.select([0, 1]))
    turned = replace(few.examples, visual=tuple(part.flip(0) for part in few.examples.visual))
    one, other = baselines.from_text(few), baselines.from_text(replace(few, examples=turned))
    assert torch.equal(one.codes, other.codes)


def test_without_captions_there_is_no_music_from_text(material):
    silent = replace(material.examples, caption=[""] * len(material.examples))
    with pytest.raises(PromptError, match="not every held-out clip has a caption"):
        baselines.from_text(replace(material, examples=silent))


def test_a_baseline_has_the_figures_that_the_model_has(material, yardstick):
    """Real music goes with its picture and training music does not: by the same names, side by side."""
    real = baselines.describe(yardstick, yardstick.profile(material.real))
    other = baselines.describe(yardstick, yardstick.profile(baselines.random_tracks(material)))
    assert real["planted"]["timbre"]["p_value"] <= 0.01 < other["planted"]["timbre"]["p_value"]
    assert real["correspondence"]["retrieval"]["right"] > other["correspondence"]["retrieval"]["right"]
    assert real["loudness"]["error"]["mean"] == pytest.approx(0, abs=1e-6)
    assert real["tags"]["divergence"]["mean"] == pytest.approx(0, abs=1e-6)
    assert {"joint", "semantic"} <= set(real) == set(other)
    assert {"value", "low", "high", "count"} == set(real["joint"]["kernel"])


def test_what_a_catalogue_cannot_tell_is_said(material):
    """A user's own videos have no planted truth and no genres, and few of them teach no judge."""
    bare = replace(material.train.select(list(range(8))), attributes=["{}"] * 8)
    unlabelled = replace(
        material, train=bare, examples=replace(material.examples, attributes=["{}"] * len(material.examples))
    )
    found = Yardstick(unlabelled)
    assert set(found.skipped) == {"planted", "tags", "correspondence"}
    assert "8 training clips" in found.skipped["correspondence"]
    profile = found.profile(material.real)
    assert set(profile.pairs) == {"level"} and set(profile.scores) == {"loudness.error"}


def test_a_profile_of_some_clips_is_that_of_these_clips(material, yardstick):
    profile, rows = yardstick.profile(material.real), np.array([3, 1, 7])
    part = profile.take(rows)
    assert np.array_equal(np.diag(part.pairs["planted.mode"]), np.diag(profile.pairs["planted.mode"])[rows])
    assert np.array_equal(part.embeddings["joint"], profile.embeddings["joint"][rows])
    own = part.own(yardstick.reference)
    assert all(len(values) == 3 and better(name) in ("higher", "lower") for name, values in own.items())


def test_dotted_names_become_mappings():
    assert nested({"a.b": 1, "a.c": 2, "d": 3}) == {"a": {"b": 1, "c": 2}, "d": 3}


def test_music_dealt_to_other_scenes_scores_less(material, yardstick):
    """Otherwise a gate could not tell a model that ignores the picture from one that follows it."""
    count = len(material.examples)
    turned = scenes.dealt(material.real, [(row + 5) % count for row in range(count)])
    right, wrong = yardstick.profile(material.real), yardstick.profile(turned)
    for name in ("planted.timbre", "correspondence.retrieval"):
        assert np.diag(right.pairs[name]).mean() > np.diag(wrong.pairs[name]).mean() + 0.3
