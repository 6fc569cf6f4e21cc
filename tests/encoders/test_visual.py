"""Visual features answer to what they are named for, and to nothing else."""

import numpy as np
import pytest

from v2meow.assets import AssetError
from v2meow.config import ClipConfig, MotionConfig
from v2meow.encoders.visual import WIDTH, load_visual, motion
from v2meow.encoders.visual.motion import DIRECTIONS, EDGES, HUES

SIZE = 64
_HUE = slice(6, 6 + HUES)
_EDGE = slice(6 + HUES, 6 + HUES + EDGES)
_MOTION = 6 + HUES + EDGES + 1
_DIRECTION = slice(_MOTION, _MOTION + DIRECTIONS)
_SPEED, _MOVING, _CHANGE, _SIGNED, _CUT = range(_MOTION + DIRECTIONS, _MOTION + DIRECTIONS + 5)


def _frames(distance, value=255, colour=(1.0, 1.0, 1.0), frames=8) -> np.ndarray:
    """Frames in which a shape, inside where `distance(x, y, frame)` is negative, stands on a darker ground."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] - (SIZE - 1) / 2
    inside = np.stack([np.clip(0.5 - distance(x, y, frame), 0, 1) for frame in range(frames)])[..., None]
    return (value * np.array(colour) * (inside + (1 - inside) / 3)).astype(np.uint8)


def _disc(speed, direction=0.0):
    """A disc that moves `speed` pixels a frame."""
    cos, sin = np.cos(direction), np.sin(direction)
    return lambda x, y, i: np.hypot(x - speed * cos * (i - 4), y - speed * sin * (i - 4)) - 12


def _square(x, y, _):
    return np.maximum(np.abs(x), np.abs(y)) - 14


def _diamond(x, y, _):
    return (np.abs(x) + np.abs(y)) / 2**0.5 - 14


def test_there_is_one_row_of_the_stated_width_a_frame():
    """The model's first matrix is made for it."""
    features = motion(_frames(_disc(1)))
    assert (features.shape, features.dtype) == ((8, WIDTH), np.float32)


def test_a_recipe_names_its_extractor():
    """One that is loaded again for every video would cost seconds each time."""
    config, frames = MotionConfig(kind="motion", rate=10.0, size=SIZE), _frames(_disc(1))
    extractor = load_visual(config)
    assert extractor.width == WIDTH and (extractor(frames) == motion(frames)).all()
    assert load_visual(MotionConfig(kind="motion", rate=10.0, size=SIZE)) is extractor


def test_weights_that_are_not_there_are_asked_for_by_their_name(tmp_path, monkeypatch):
    monkeypatch.setenv("V2MEOW_ASSETS", str(tmp_path))
    clip = ClipConfig(kind="clip", asset="clip-vit-b32-laion2b", model="ViT-B-32", rate=1.0, batch=8, bfloat16=True)
    with pytest.raises(AssetError, match="clip-vit-b32-laion2b"):
        load_visual(clip)


@pytest.mark.parametrize("shade", [0, 255])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_black_white_and_single_frames_are_finite(shade, frames):
    """Fades to black and pictures without an edge are ordinary; one NaN of theirs would spoil a whole training."""
    features = motion(np.full((frames, SIZE, SIZE, 3), shade, np.uint8))
    assert features.shape == (frames, WIDTH)
    assert np.isfinite(features).all()


def test_a_still_picture_does_not_move():
    features = motion(_frames(_disc(0)))
    assert (features[:, _MOTION : _CUT + 1] == 0).all()
    assert (features == features[0]).all()


@pytest.mark.parametrize("value", [70, 255])
def test_faster_is_larger_for_dim_and_bright_alike(value):
    """Brightness is planted independently of tempo: speed that grows with it could not tell them apart."""
    speeds = [motion(_frames(_disc(speed), value))[:, _SPEED].mean() for speed in (0.25, 0.5, 1.0, 2.0)]
    assert speeds == sorted(speeds)
    assert speeds[-1] > 3 * speeds[0]


def test_a_dim_object_is_as_fast_as_a_bright_one():
    dim, bright = (motion(_frames(_disc(1.0), value))[:, _SPEED].mean() for value in (100, 255))
    assert dim == pytest.approx(bright, rel=0.25)


@pytest.mark.parametrize("eighth", range(8))
def test_the_direction_of_motion_is_its_peak(eighth):
    """Each direction has its own bin, going round with it."""
    histogram = motion(_frames(_disc(0.7, eighth * np.pi / 4)))[:, _DIRECTION].mean(0)
    assert histogram.argmax() == eighth
    assert histogram.sum() == pytest.approx(1, abs=1e-4)


def test_the_first_frame_moves_as_the_second():
    """Zeros there would be a stop at the start of every clip."""
    features = motion(_frames(_disc(1)))
    assert (features[0, _MOTION : _CUT + 1] == features[1, _MOTION : _CUT + 1]).all()
    assert features[0, _SPEED] > 0


def test_the_hue_goes_round_with_the_colour():
    """Red, yellow, green, cyan, blue, magenta are sixths of the circle."""
    colours = [(1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1)]
    peaks = [motion(_frames(_disc(0), colour=colour, frames=1))[0, _HUE].argmax() for colour in colours]
    assert peaks == [0, 2, 4, 6, 8, 10]


def test_grey_has_no_hue():
    assert motion(_frames(_disc(0), frames=1))[0, _HUE].sum() == 0


def test_a_square_and_a_diamond_have_different_edges():
    """The planted shapes stand for timbres; their outlines are all that tells them apart."""
    square, diamond = (motion(_frames(shape, frames=1))[0, _EDGE] for shape in (_square, _diamond))
    assert square[[0, EDGES // 2]].sum() > 0.8  # upright and level
    assert diamond[[EDGES // 4, 3 * EDGES // 4]].sum() > 0.4  # half way between them
    assert np.abs(square - diamond).sum() > 1.5


def test_a_cut_shows_where_it_is_and_nowhere_else():
    frames = np.concatenate((_frames(_square, 255, frames=4), _frames(_square, 60, frames=4)))
    cut = motion(frames)[:, _CUT]
    assert cut.argmax() == 4 and cut[4] > 0.5
    assert (np.delete(cut, 4) == 0).all()


def test_getting_brighter_is_told_from_getting_darker():
    ramp = np.arange(0, 250, 30, dtype=np.uint8)[:, None, None, None] * np.ones((1, SIZE, SIZE, 3), np.uint8)
    assert (motion(ramp)[:, _SIGNED] > 0).all()
    assert (motion(ramp[::-1].copy())[:, _SIGNED] < 0).all()
    assert (motion(ramp)[:, _MOVING] == 1).all()
    assert motion(ramp)[1, _CHANGE] == pytest.approx(30 / 255, abs=1e-3)
