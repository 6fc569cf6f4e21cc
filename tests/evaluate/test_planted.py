"""Planted truth is heard in the catalogue's own music, and is not heard where it is not."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torchaudio.functional import resample

from v2meow.data import synthetic
from v2meow.evaluate import planted

RATE, SECONDS = 16_000, 4.0


def _pieces(seed: int, count: int) -> tuple[torch.Tensor, list[synthetic.Factors]]:
    """Music [N, T] of the synthetic catalogue at the codec's rate, with its factors."""
    generators = [np.random.default_rng((seed, index)) for index in range(count)]
    factors = [synthetic.draw_factors(random, index) for index, random in enumerate(generators)]
    played = [synthetic.play(each, random, SECONDS) for each, random in zip(factors, generators, strict=True)]
    return resample(torch.from_numpy(np.stack(played)), synthetic.SAMPLE_RATE, RATE), factors


@pytest.fixture(scope="module")
def taught():
    return _pieces(seed=0, count=64)


@pytest.fixture(scope="module")
def listener(taught):
    return planted.Listener(*taught, sample_rate=RATE)


@pytest.fixture(scope="module")
def unseen():
    return _pieces(seed=1, count=32)


def test_all_four_factors_are_heard_in_unseen_real_music(listener, unseen):
    """The ceiling: what a measure cannot hear in real music it cannot demand of generated music."""
    heard = {name: np.diag(scores).mean() for name, scores in listener.scores(*unseen).items()}
    assert heard["timbre"] >= 0.9 and heard["energy"] >= 0.9, heard
    assert heard["tempo"] >= 0.8 and heard["mode"] >= 0.8, heard


def test_right_music_has_evidence_and_music_of_other_videos_has_none(listener, unseen):
    """Were truth to leak past the audio, music dealt to the wrong videos would score as well."""
    music, factors = unseen
    dealt = torch.from_numpy(np.random.default_rng(3).permutation(len(music)))
    right = planted.measure(listener, music, music, factors, permutations=999, seed=0)
    wrong = planted.measure(listener, music[dealt], music, factors, permutations=999, seed=0)
    for name in ("timbre", "energy", "tempo", "mode"):
        assert right[name]["p_value"] <= 0.01 and right[name]["right"] == right[name]["ceiling"], (name, right)
        assert wrong[name]["p_value"] > 0.01 and wrong[name]["right"] < wrong[name]["ceiling"], (name, wrong)


def test_rows_have_intervals_and_scores_of_single_clips_average_to_them(listener, unseen):
    music, factors = unseen
    rows = planted.measure(listener, music, music, factors, permutations=99, seed=0)
    single = planted.per_clip(listener, music, factors)
    for name, row in rows.items():
        assert row["low"] <= row["right"] <= row["high"] <= 1 + 1e-9 and row["shifted"] is None, (name, row)
        assert np.mean(single[name]) == pytest.approx(row["right"], abs=1e-6)


def test_a_listener_taught_shuffled_labels_hears_timbre_at_chance(taught, unseen):
    """Else the classifier's score would say nothing about timbre."""
    music, factors = taught
    order = np.random.default_rng(4).permutation(len(factors))
    deaf = planted.Listener(music, [factors[i] for i in order], RATE)
    share = np.diag(deaf.scores(*unseen)["timbre"]).mean()
    assert share <= 0.25 + 3 * np.sqrt(0.25 * 0.75 / len(unseen[0])), share


def test_factors_are_none_when_one_clip_plants_nothing():
    """A measure over part of the videos would compare with controls of another kind."""
    factors = synthetic.draw_factors(np.random.default_rng(0), 0)
    whole = json.dumps(asdict(factors))
    assert planted.factors_of([whole, whole]) == [factors, factors]
    assert planted.factors_of([whole, "{}"]) is None
    assert planted.factors_of([whole, '{"tempo": 90.0, "mood": "dark"}']) is None


def test_a_contradicting_prompt_says_another_timbre_and_nothing_else_that_is_new(unseen):
    _, factors = unseen
    prompts, told = planted.contradict(factors, seed=0)
    assert {prompt for prompt in prompts if any(timbre in prompt for timbre in synthetic.TIMBRES)} == set(prompts)
    for prompt, asked, seen in zip(prompts, told, factors, strict=True):
        assert asked.timbre in prompt and seen.timbre not in prompt and seen.mode in prompt
        assert (asked.tempo, asked.mode, asked.energy) == (seen.tempo, seen.mode, seen.energy)
    assert {factor.timbre for factor in told} == set(synthetic.TIMBRES)


def test_what_follows_the_prompt_and_what_follows_the_picture_are_told_apart(listener, unseen):
    """Of music that has the picture's timbre, none follows a prompt that asks for another."""
    music, factors = unseen
    _, told = planted.contradict(factors, seed=0)
    shares = planted.followed(listener, music, factors, told)
    assert shares["picture"] >= 0.9 and shares["prompt"] <= 0.1
    assert planted.followed(listener, music, told, factors)["prompt"] == shares["picture"]
