"""The end of a piece."""

import torch

from v2meow.generate.files import FADE_SECONDS, faded

RATE = 1000


def test_a_piece_goes_down_to_silence_at_its_end_and_is_untouched_before():
    """A video ends anywhere: music that is cut off there clicks, louder than any note."""
    waveform = torch.sin(torch.arange(3 * RATE) * 0.7)
    found, count = faded(waveform, RATE), round(FADE_SECONDS * RATE)
    assert len(found) == len(waveform) and torch.equal(found[:-count], waveform[:-count])
    fall = (found[-count:] / waveform[-count:]).abs()
    assert (fall.diff() <= 1e-6).all() and fall[0] > 0.99 and found[-1].abs() < 1e-6


def test_music_shorter_than_the_fade_fades_as_a_whole():
    found = faded(torch.ones(10), RATE)
    assert len(found) == 10 and found[-1].abs() < 1e-6 and found[0] < 1
