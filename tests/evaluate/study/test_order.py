"""What a rater sees must be the same at every visit, balanced, and different from what others see."""

from collections import Counter

from designs import paper_study

from v2meow.evaluate.study.order import plan, rater_of

_STUDY = paper_study(("one", "two", "three"), 8, silent=3, mismatched=1, per_rater=12)


def test_a_rater_who_comes_back_sees_the_same_and_others_see_something_else():
    """An order that moved would show pairs again that were rated, and lose others."""
    rater = rater_of(_STUDY, "a-token-of-mine")
    assert plan(_STUDY, rater) == plan(_STUDY, rater)
    assert plan(_STUDY, rater) != plan(_STUDY, rater_of(_STUDY, "another-token"))
    first = [(shown.pair.id, shown.swapped) for shown in plan(_STUDY, rater)[:3]]
    assert first == [("two-three-5", True), ("one-three-6", True), ("one-two-7", True)], (
        "the rule itself changed: studies that are under way would change with it"
    )


def test_every_rater_sees_all_systems_alike_and_all_checks():
    """Who leaves after a few pairs must not have rated one pair of systems alone."""
    for number in range(20):
        shown = plan(_STUDY, f"rater {number}")
        kinds = Counter(one.pair.kind for one in shown)
        assert kinds == {"compare": 12, "silent": 3, "mismatched": 1}
        assert len({one.pair.id for one in shown}) == 16
        compared = [one for one in shown if one.pair.kind == "compare"]
        for begin in range(0, 12, 3):
            assert len({_STUDY.systems_of(one.pair) for one in compared[begin : begin + 3]}) == 3


def test_sides_are_balanced_and_checks_are_spread():
    """Who always prefers the left side must prefer no system, and must fail checks."""
    places, swapped = [], Counter()
    for number in range(200):
        shown = plan(_STUDY, f"rater {number}")
        swapped.update(one.pair.kind for one in shown if one.swapped)
        places += [place for place, one in enumerate(shown) if one.pair.kind == "silent"]
    assert swapped["compare"] == 200 * 6, "half of the pairs of systems, for every rater"
    assert 240 < swapped["silent"] < 360 and 70 < swapped["mismatched"] < 130
    quarters = Counter(place // 4 for place in places)
    assert min(quarters.values()) > 80, quarters
