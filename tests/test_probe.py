"""Judging a model by its answers: what a listener would call broken must not pass, whatever the average says."""

from dataclasses import replace

from v2meow.config import PromotionConfig
from v2meow.probe import Answer, judge

LIMITS = PromotionConfig(seconds=2.0)
GOOD = Answer(took_s=1.0, seconds=2.0, loudness_db=-20.0)


def changed(**values) -> Answer:
    return replace(GOOD, **values)


def test_a_model_as_good_as_production_passes():
    found = judge([GOOD] * 3, [GOOD] * 3, LIMITS)
    assert found.passed and found.numbers["slowdown"] == 1.0 and found.numbers["error_share"] == 0.0


def test_one_piece_that_is_silent_clips_or_is_too_short_is_enough_to_fail():
    """Means over many requests hid one in ten that was silent."""
    for bad, word in (
        (changed(loudness_db=-90.0), "silence"),
        (changed(clipped_share=0.2), "clipping"),
        (changed(seconds=1.5), "1.50 s"),
    ):
        found = judge([GOOD, GOOD, bad], (), LIMITS)
        assert not found.passed and word in found.reasons[0]


def test_errors_of_other_peoples_requests_count():
    """A canary that fails its listeners and answers its probe is no good canary."""
    found = judge([GOOD] * 3, (), LIMITS, others=(1.0, 6.0))
    assert not found.passed and found.numbers["error_share"] == 0.1


def test_a_service_that_answers_nothing_fails():
    found = judge([Answer(error="ConnectError: refused")], (), LIMITS)
    assert not found.passed and "refused" in found.reasons[0]
    assert not judge([], (), LIMITS).passed


def test_a_model_much_slower_than_production_fails():
    found = judge([changed(took_s=3.0)] * 3, [GOOD] * 3, LIMITS)
    assert not found.passed and "3.0 times" in found.reasons[0]
