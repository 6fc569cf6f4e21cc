"""What happens in a picture is seen when it happens, and nothing is seen where nothing does."""

from dataclasses import replace

import numpy as np
import pytest
import scenes
import tiny

from v2meow.evaluate import look
from v2meow.media import write_video

SIDE, SECONDS = 64, 4.0


def _shown(rate: float, cuts: list[float]) -> np.ndarray:
    """A picture that is another one after each of `cuts`: uint8 [V, S, S, 3]."""
    pictures = np.random.default_rng(0).integers(0, 255, size=(len(cuts) + 1, SIDE, SIDE, 3), dtype=np.uint8)
    times = np.arange(round(SECONDS * rate)) / rate
    return pictures[np.searchsorted(cuts, times + 1e-9)]


@pytest.mark.parametrize("rate", [10.0, 15.0, 25.0])
def test_cuts_are_seen_at_the_first_new_picture(rate):
    """One picture late, and every measure of what coincides would be too low."""
    cuts = [0.8, 2.0, 3.2]
    found = look.seen(_shown(rate, cuts), rate, SECONDS)
    assert found.events == pytest.approx(np.ceil(np.array(cuts) * rate - 1e-6) / rate)
    assert found.change.shape == (round(SECONDS * look.RATE),)
    assert not found.is_still


def test_a_still_picture_and_noise_of_compression_are_no_events():
    noise = 100 + np.random.default_rng(1).integers(0, 2, size=(60, SIDE, SIDE, 3), dtype=np.uint8)
    assert look.seen(np.full((60, SIDE, SIDE, 3), 90, np.uint8), 15.0, SECONDS).is_still
    assert look.seen(noise[:1], 0.25, SECONDS).is_still
    assert look.seen(noise, 15.0, SECONDS).is_still


def test_small_movement_beside_a_cut_is_seen():
    """Measured against a cut, the pulse of a small shape is nothing."""
    frames = np.full((60, SIDE, SIDE, 3), 40, np.uint8)
    frames[45:] = 220  # at 3 s
    frames[15:18, 20:32, 20:32] = 200  # at 1 s, and gone at 1.2 s
    assert {1.0, 3.0} <= set(look.seen(frames, 15.0, SECONDS).events.round(3))


def test_videos_are_looked_at_no_more_often_than_they_change(tmp_path):
    """Read at 25 Hz, a video of 15 has changes of nothing in between: a rhythm that is not there."""
    write_video(tmp_path / "a.mp4", iter(_shown(15.0, [0.8, 2.0, 3.2])), 15, np.zeros(64_000, np.float32), 16_000)
    clip = replace(scenes.clip("0", SECONDS), path="a.mp4", fps=15.0)
    gone = replace(clip, path="gone.mp4")
    seen, missing = look.look(tiny.recipe(), tmp_path, [clip, gone])
    assert missing is None and seen is not None
    assert seen.events == pytest.approx([0.8, 2.0, 3.2], abs=0.04)
