"""The planted worst slice is named, and of slices that differ by chance none stands out."""

from dataclasses import replace

import numpy as np
import pytest
import scenes

from v2meow.evaluate.slices import cut, kinds, length_of, rate_of


def _genres(values: list[str]) -> dict[str, list[str | None]]:
    return kinds([None] * len(values), [{"genre": value} for value in values])


def test_the_planted_worst_slice_and_the_property_it_lies_in_are_named():
    random = np.random.default_rng(0)
    genre = ["waltz", "polka", "dirge"] * 10
    mood = ["glad", "sad"] * 15
    scores = [float(value) for value in random.normal(0.5, 0.05, 30) - 0.3 * (np.array(genre) == "dirge")]
    attributes = [{"genre": g, "mood": m} for g, m in zip(genre, mood, strict=True)]
    found = cut(kinds([None] * 30, attributes), {"beats": scores})
    worst = found["worst"]["beats"]
    assert (worst["by"], worst["value"], worst["count"]) == ("genre", "dirge", 10)
    assert worst["difference"] == pytest.approx(-0.3, abs=0.05) and worst["p_value"] < 0.02
    assert found["largest_gap"]["beats"]["by"] == "genre" and found["largest_gap"]["beats"]["worst"] == "dirge"
    dirge = found["by"]["genre"]["dirge"]["measures"]["beats"]
    assert dirge["low"] < dirge["mean"] < dirge["high"]
    assert dirge["mean"] == pytest.approx(np.mean(scores[2::3]))


def test_of_many_slices_that_differ_by_chance_none_stands_out():
    """Without allowing for their number one of ten would, in every second evaluation."""
    stood_out = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        genre = [f"genre {number}" for number in random.integers(10, size=100)]
        found = cut(_genres(genre), {"beats": random.normal(size=100).tolist()}, seed)
        rows = [each["measures"]["beats"] for each in found["by"]["genre"].values()]
        stood_out += any(row["p_value"] < 0.05 for row in rows)
    assert stood_out <= 3


def test_slices_of_fewer_than_five_clips_are_listed_and_not_judged():
    scores = [0.9] * 8 + [0.0] * 4
    found = cut(_genres(["waltz"] * 8 + ["dirge"] * 4), {"beats": scores})
    assert found["too_few"] == [{"by": "genre", "value": "dirge", "count": 4}]
    assert "dirge" not in found["by"]["genre"] and found["worst"]["beats"]["value"] == "waltz"


def test_clips_without_a_score_or_a_value_are_left_out():
    scores: list[float | None] = [1.0] * 6 + [None] * 6
    found = cut(kinds([None] * 12, [{"genre": "a"}] * 6 + [{"genre": "b"}] * 5 + [{}]), {"beats": scores})
    assert found["by"]["genre"]["a"]["measures"]["beats"]["count"] == 6
    assert found["by"]["genre"]["b"]["measures"] == {} and found["by"]["genre"]["b"]["count"] == 5


def test_out_of_domain_sets_are_slices_and_numbers_of_every_clip_are_not():
    attributes = [
        {"set": ["dance", "animals", "still image", "no music"][row % 4], "tempo": 90.0 + row} for row in range(40)
    ]
    found = kinds([None] * 40, attributes)
    assert set(found["set"]) == {"dance", "animals", "still image", "no music"} and "tempo" not in found


def test_one_value_for_all_has_nothing_to_be_compared_with():
    found = cut(_genres(["waltz"] * 10), {"beats": [0.5] * 10})
    assert found["by"]["genre"]["waltz"]["measures"]["beats"]["difference"] is None
    assert found["worst"] == {} and found["largest_gap"] == {}


@pytest.mark.parametrize(
    ("fps", "expected"), [(1.0, 1), (0.999, 1), (5.0, 5), (12.0, 10), (23.976, 24), (29.97, 24), (59.94, 60)]
)
def test_frame_rates_fall_into_their_class(fps, expected):
    assert rate_of(replace(scenes.clip("0", 4.0), fps=fps)) == f"about {expected}"


def test_what_the_table_of_clips_says_of_a_video_makes_slices():
    """The average of a variable rate may be any rate; a genre may be the sidecar's own word or an attribute."""
    clips = [
        replace(scenes.clip("0", 4.0), genre=genre, variable_fps=variable)
        for genre, variable in (("polka", True), ("", False))
    ]
    found = kinds([*clips, None], [{"genre": "an attribute"}, {}, {}])
    assert found["genre"] == ["polka", None, None] and found["fps"] == ["variable", "about 10", None]
    assert kinds([clips[1]], [{"genre": "waltz"}])["genre"] == ["waltz"]


def test_lengths_fall_into_classes():
    assert [length_of(each) for each in (4, 10, 10.1, 300, 301)] == [
        "up to 10 s",
        "up to 10 s",
        "up to 30 s",
        "up to 300 s",
        "over 300 s",
    ]
