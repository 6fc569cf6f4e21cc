"""From ratings to results: who is preferred must not depend on sides, and who does not listen must not count."""

import numpy as np
from designs import paper_study, rated, simulated

from v2meow.evaluate.study import tally
from v2meow.evaluate.study.order import plan

_SYSTEMS = ("one", "two", "three", "four")


def test_the_strengths_of_four_simulated_systems_are_found_again():
    """The whole way from ratings on sides that were swapped at random."""
    study = paper_study(_SYSTEMS, 12)
    truth = np.array([0.9, 0.1, -0.2, -0.8])
    ratings = simulated(study, truth, raters=25, seed=4)
    found = tally.results(study, ratings)["questions"]["fit"]
    assert [row["system"] for row in found["systems"]] == list(_SYSTEMS)
    for row, strength in zip(found["systems"], truth, strict=True):
        assert abs(row["score"]["value"] - strength) < 0.15
        assert row["score"]["low"] < strength < row["score"]["high"]
        assert row["win_rate"]["low"] < row["win_rate"]["value"] < row["win_rate"]["high"]
    assert found["bounded"] and found["ratings"] == len(ratings)
    assert tally.results(study, [])["questions"]["music"]["systems"] == []


def test_a_preference_is_the_same_on_either_side():
    study = paper_study(("one", "two"), 1)
    for swapped in (False, True):
        found = tally.results(study, [rated("one-two-0", 2, rater="ann", swapped=swapped)])
        (pair,) = found["questions"]["fit"]["pairs"]
        assert pair["answers"] == {"2": 1, "1": 0, "0": 0, "-1": 0, "-2": 0}
        assert pair["win_rate"]["value"] == 1.0


def test_who_fails_half_of_the_silent_pairs_is_left_out_and_told():
    """A rater who clicks through would pull everything towards a tie."""
    study = paper_study(("one", "two"), 4, silent=2)
    ratings = []
    for rater, checks in {"attends": (2, 1), "slips": (2, 0), "clicks": (-1, 0), "early": ()}.items():
        ratings += [rated(f"one-two-{n}", 1 if rater != "clicks" else -2, rater=rater) for n in range(4)]
        ratings += [rated(f"silent-{n}", towards, rater=rater) for n, towards in enumerate(checks)]
    found = tally.results(study, ratings)
    outcome = {one["rater"]: (one["checks"], one["failed"], one["excluded"]) for one in found["raters"]}
    assert outcome == {
        "attends": (2, 0, False),
        "slips": (2, 1, True),
        "clicks": (2, 2, True),
        "early": (0, 0, False),
    }
    assert found["questions"]["fit"]["pairs"][0]["answers"] == {"2": 0, "1": 8, "0": 0, "-1": 0, "-2": 0}
    assert (found["excluded"], found["counted"], found["ratings"]) == (2, 8, len(ratings))


def test_a_silent_pair_is_passed_only_in_all_its_questions():
    study = paper_study(("one", "two"), 1, silent=1)
    ratings = [rated("silent-0", towards, rater="ann", question=q) for q, towards in (("fit", 2), ("music", 0))]
    assert tally.results(study, ratings)["raters"][0]["failed"] == 1


def test_music_for_another_video_is_a_control_and_no_comparison():
    """It must tell whether the music follows the picture, and neither count as a win nor exclude honest raters."""
    study = paper_study(("one", "two"), 4, mismatched=4)
    ratings = [rated("one-two-0", -1, rater="ann"), *(rated(f"mismatched-{n}", 1, rater="ann") for n in range(3))]
    found = tally.results(study, [*ratings, rated("mismatched-3", -1, rater="ann")])
    question = found["questions"]["fit"]
    assert question["control"]["own_preferred"]["value"] == 0.75
    assert (question["ratings"], found["excluded"]) == (1, 0)


def test_raters_who_agree_have_a_high_kappa_and_those_who_throw_dice_have_none():
    study = paper_study(("one", "two"), 40)
    dice = np.random.default_rng(0)
    taste = dice.integers(-2, 3, 40)
    agreed = [rated(f"one-two-{n}", int(taste[n]), rater=r) for r in ("ann", "bob", "cat") for n in range(40)]
    thrown = [rated(f"one-two-{n}", int(dice.integers(-2, 3)), rater=r) for r in ("a", "b", "c") for n in range(40)]
    kappas = [tally.results(study, rows)["questions"]["fit"]["agreement"]["kappa"] for rows in (agreed, thrown)]
    assert kappas[0] == 1.0 and abs(kappas[1]) < 0.2


def test_everybody_on_the_left_is_a_tie_of_systems():
    """The order's balance at work: a habit of hands must favour no system."""
    study = paper_study(("one", "two"), 10)
    ratings = [
        rated(one.pair.id, -2 if one.swapped else 2, rater=f"r{n}", swapped=one.swapped)
        for n in range(5)
        for one in plan(study, f"r{n}")
    ]
    assert {one.choice for one in ratings} == {-2}
    rates = [row["win_rate"]["value"] for row in tally.results(study, ratings)["questions"]["fit"]["systems"]]
    assert rates == [0.5, 0.5]
