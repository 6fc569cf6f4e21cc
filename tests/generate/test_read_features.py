"""Features for a whole video are read clip by clip, and no joint shows in them."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from v2meow.encoders.visual import WIDTH, load_visual, motion
from v2meow.generate.files import read_features
from v2meow.media import write_video


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Five seconds of a disc that moves, faster and faster."""
    y, x = np.mgrid[:64, :64]
    places = 10 + 30 * (np.arange(50) / 50) ** 2
    pictures = (np.where(np.hypot(x - place, y - 32) < 9, 220, 40).astype(np.uint8) for place in places)
    path = tmp_path_factory.mktemp("video") / "a.mp4"
    frames = (np.repeat(picture[..., None], 3, axis=2) for picture in pictures)
    write_video(path, frames, 10, np.zeros(5 * 16_000, np.float32), 16_000)
    return path


def test_clip_by_clip_is_the_whole(video, reader):
    """The first picture of a clip moves against the last of the clip before, as in a video that is read at once."""
    (found,) = read_features(tiny.recipe(), reader, video, 4.1)
    assert found.shape == (60, WIDTH) and found.dtype == torch.float32  # three clips of 2 s
    whole = motion(reader.frames(video, 10.0, 64, 0.0, 6.0))
    assert np.abs(found.numpy() - whole).max() == 0.0
    alone = motion(reader.frames(video, 10.0, 64, 2.0, 2.0))
    assert np.abs(alone[0] - whole[20]).max() > 1e-3


def test_each_extractor_is_read_at_its_own_rate(video, reader):
    recipe = tiny.recipe()
    (config,) = recipe.visual
    slow = replace(config, rate=5.0)
    fast, other = read_features(replace(recipe, visual=(config, slow)), reader, video, 3.0)
    assert (fast.shape, other.shape) == ((40, WIDTH), (20, WIDTH))
    expected = load_visual(slow)(reader.frames(video, 5.0, 64, 0.0, 4.0))
    assert np.abs(other.numpy() - expected).max() == 0.0
