"""Every measure finds the scenes' own music, and none of them finds music that was dealt to other scenes."""

from dataclasses import replace

import numpy as np
import pytest
import scenes
import torch

from v2meow.evaluate import correspondence, movement, retrieval
from v2meow.evaluate.agreement import compare
from v2meow.evaluate.material import Material
from v2meow.files import write_json

pytestmark = pytest.mark.slow
COUNT = 12


@pytest.fixture(scope="module")
def own(material: Material) -> dict:
    return correspondence.measure(material)


def test_every_measure_finds_that_the_real_music_belongs_to_its_scene(own):
    for name in ("retrieval", "beats", "onsets", "caption"):
        row = own[name]
        assert row["p_value"] <= 0.01 and row["trustworthy"] and row["count"] == COUNT, (name, row)
        assert row["wrong"] < row["low"] <= row["right"] == row["ceiling"] <= row["high"], (name, row)
    assert own["retrieval"]["recall"]["picture"]["at_5"]["right"] > 2 * 5 / COUNT - 0.1


def test_movement_is_found_at_its_time_and_not_half_a_clip_later(own):
    """The second control: music with the right tempo may do well with the wrong phase, and this tells them apart."""
    for name in ("beats", "onsets"):
        assert own[name]["shifted"] < own[name]["right"] and own[name]["shifted_p_value"] < 0.05, (name, own[name])
    assert own["caption"]["shifted"] is None


def test_no_measure_is_pleased_by_music_of_other_scenes(material):
    """Yet each knows, from the real music beside it, that it could have been.

    Dealt to scenes of another shape, so that no timbre fits by chance: they come in fours.
    """
    music = scenes.dealt(material.real, [(row + 5) % COUNT for row in range(COUNT)])
    other = replace(material, generated=music)
    found = retrieval.scores(other, retrieval.hear(other))[1] | movement.scores(other)[1]
    for name, scores in found.items():
        row = compare(scores, 999, 0)
        assert row["p_value"] > 0.01 and row["right"] < row["ceiling"], (name, row)
        assert row["trustworthy"] or name == "level", (name, row)


def test_scores_of_single_clips_average_to_the_row_and_the_file_can_be_written(own, tmp_path):
    for name in correspondence.MEASURES:
        assert len(own["per_clip"][name]) == COUNT
        assert np.mean(own["per_clip"][name]) == pytest.approx(own[name]["right"])
    write_json(tmp_path / "metrics.json", own)  # refuses NaN and NumPy's numbers


def test_prompted_music_is_scored_by_a_judge_of_its_own_and_by_the_one_that_conditions(own):
    assert own["prompted"]["ceiling"] == own["caption"]["ceiling"] != own["conditioning"]["ceiling"]


def test_what_cannot_be_measured_is_none_with_a_reason(material):
    """A catalogue without captions, too few training clips for a judge, videos that are gone."""
    few = material.examples.select(list(range(4)))
    few = replace(few, caption=[""] * 4, clip_id=[f"gone-{row}" for row in range(4)])
    music = scenes.dealt(material.real, list(range(4)))
    bare = replace(material, examples=few, generated=music, real=music, train=material.train.select([0, 1]))
    found = correspondence.measure(bare)
    assert [found[name] for name in correspondence.MEASURES] == [None] * len(correspondence.MEASURES)
    assert "2 training clips" in found["skipped"]["retrieval"] and "cannot be read" in found["skipped"]["beats"]
    assert found["skipped"].keys() == set(correspondence.MEASURES) and found["per_clip"] == {}


def test_clips_in_which_nothing_moves_are_left_out_and_have_no_score(material):
    """A still picture has no rhythm: counted as a miss it would make every model look deaf."""
    still = material.workspace / "data" / "raw" / f"{material.examples.video_id[0]}.mp4"
    kept = still.read_bytes()
    scenes.write_video(still, iter([np.full((64, 64, 3), 90, np.uint8)] * 60), 15, np.zeros(64_000, np.float32), 16_000)
    try:
        rows, _ = movement.scores(material)
    finally:
        still.write_bytes(kept)
    assert rows == list(range(1, COUNT))


def test_music_that_is_silent_is_scored_as_nothing_rather_than_failing(material):
    silent = replace(material.real, waveforms=torch.zeros_like(material.real.waveforms))
    _, found = movement.scores(replace(material, generated=silent))
    assert not found["beats"].generated.any() and not found["onsets"].generated.any()
