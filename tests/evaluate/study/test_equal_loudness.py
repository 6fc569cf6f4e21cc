"""Music that is compared must be equally loud: what is louder is preferred, whatever it is like."""

import numpy as np

from v2meow.data.measure import lufs
from v2meow.evaluate.study.loudness import equally_loud

_RATE = 48_000


def _sine(level: float, seconds: float = 2.0) -> np.ndarray:
    return (level * np.sin(2 * np.pi * 997 * np.arange(round(seconds * _RATE)) / _RATE)).astype(np.float32)


def test_the_recommendations_own_tone_comes_out_at_the_target():
    """BS.1770-4: a sine of 997 Hz at full scale in one channel reads -3.01 LUFS, so one at -20 LUFS peaks at 0.141."""
    (tone,) = equally_loud([_sine(0.9)], _RATE, -20.0)
    assert abs(np.abs(tone).max() - 10 ** ((-20 + 3.01) / 20)) < 0.001


def test_all_become_equally_loud_and_none_clips():
    """Turned up to the target, a sound with one sharp peak would clip: then all stay below it, not that one alone."""
    peaky = _sine(0.01)
    peaky[_RATE] = 0.9
    quiet, loud, silence = equally_loud([peaky, _sine(0.8), np.zeros(_RATE, np.float32)], _RATE, -20.0)
    assert abs(lufs(quiet, _RATE) - lufs(loud, _RATE)) < 0.05
    assert max(np.abs(quiet).max(), np.abs(loud).max()) <= 0.991
    assert not silence.any()
