"""The synthetic catalogue plants what it says it plants, the same bytes for the same seed."""

import json
from collections import Counter
from dataclasses import asdict, replace
from itertools import combinations

import numpy as np
import pytest

from v2meow.data import synthetic
from v2meow.data.clips import run as ingest
from v2meow.data.synthetic import (
    SAMPLE_RATE,
    TIMBRES,
    Factors,
    caption,
    draw_factors,
    draw_frames,
    make,
    play,
    read_factors,
)

FACTORS = Factors(tempo=120.0, mode="major", timbre="flute", energy=0.5)


def _random(seed=0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    """Two videos of seed 0."""
    folder = tmp_path_factory.mktemp("catalogue")
    make(folder, 0, 2)
    return folder


def _bytes(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_same_seed_gives_the_same_files(catalogue, tmp_path):
    """Every figure that is published of the demo rests on its catalogue being the same one."""
    make(tmp_path / "again", 0, 2)
    assert _bytes(tmp_path / "again") == _bytes(catalogue)
    assert len(_bytes(catalogue)) == 4


def test_another_seed_gives_other_files(catalogue, tmp_path):
    make(tmp_path / "other", 1, 1)
    for name, content in _bytes(tmp_path / "other").items():
        assert content != (catalogue / name).read_bytes()


def test_an_interrupted_call_is_continued(catalogue, tmp_path):
    """Killed between video and sidecar, or before a later pair; what is finished is not made again."""
    folder = tmp_path / "catalogue"
    make(folder, 0, 1)
    whole = folder / "synthetic-0000.mp4"
    made = whole.stat().st_mtime_ns
    (folder / "synthetic-0001.mp4").write_bytes(b"half")
    make(folder, 0, 2)
    assert _bytes(folder) == _bytes(catalogue)
    assert whole.stat().st_mtime_ns == made
    make(folder, 0, 2)
    assert _bytes(folder) == _bytes(catalogue)


def test_ingest_takes_them_with_their_captions_and_attributes(catalogue, nano, tmp_path):
    """They go the way of any other video; a sidecar that does not parse would lose the planted truth."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/raw").symlink_to(catalogue)
    figures = ingest(nano, tmp_path)
    assert (figures["videos"], figures["rejected"]) == (2, 0)
    for path in catalogue.glob("*.json"):
        sidecar = json.loads(path.read_text())
        factors = read_factors(sidecar["attributes"])
        assert factors is not None and factors.timbre in sidecar["caption"] and factors.mode in sidecar["caption"]


def test_every_combination_is_equally_frequent():
    """A timbre that mostly comes in one mode could be told by its hue."""
    drawn = [draw_factors(_random(index), index) for index in range(80)]
    assert set(Counter((factors.timbre, factors.mode) for factors in drawn).values()) == {10}
    assert len(Counter((factors.timbre, factors.mode) for factors in drawn)) == 8
    for name in ("tempo", "energy"):
        values = [getattr(factors, name) for factors in drawn]
        low, high = {"tempo": synthetic.TEMPO, "energy": (0, 1)}[name]
        assert low <= min(values) < low + 0.2 * (high - low) and high - 0.2 * (high - low) < max(values) <= high


@pytest.mark.parametrize("timbre", TIMBRES)
@pytest.mark.parametrize("energy", [0.0, 0.3, 0.6, 1.0])
def test_the_level_is_the_planted_energy(timbre, energy):
    """Energy is measured by level later on; a timbre that is louder by itself would answer for it."""
    music = play(replace(FACTORS, timbre=timbre, energy=energy), _random(), 4.0)
    level = 10 * np.log10(np.mean(music.astype(np.float64) ** 2))
    assert level == pytest.approx(np.interp(energy, (0, 1), synthetic.LEVEL_DB), abs=0.5)
    assert np.abs(music).max() < 1
    assert music.shape == (4 * SAMPLE_RATE,) and music.dtype == np.float32


@pytest.mark.parametrize("tempo", [75.0, 120.0, 160.0])
def test_the_beat_of_the_music_has_the_planted_tempo(tempo):
    """Notes come twice a beat: the envelope repeats after half a beat, and no sooner."""
    music = play(replace(FACTORS, tempo=tempo, timbre="bell", energy=0.2), _random(), 8.0)
    rate = 300
    envelope = np.abs(music).reshape(-1, SAMPLE_RATE // rate).mean(1)
    rise = np.maximum(np.diff(envelope), 0)
    rise -= rise.mean()
    lags = range(round(0.6 * 30 / tempo * rate), round(1.5 * 30 / tempo * rate))
    best = max(lags, key=lambda lag: (rise[:-lag] * rise[lag:]).sum() / (len(rise) - lag))
    assert best / rate == pytest.approx(30 / tempo, abs=0.011)


def _position(frames: np.ndarray) -> np.ndarray:
    """Centre of what is brighter than the ground, as complex numbers."""
    light = frames.astype(float).mean(3)
    light = np.clip(light - np.median(light, axis=(1, 2), keepdims=True) - 20, 0, None)
    y, x = np.mgrid[0:128, 0:128] - 63.5
    return (light * (x + 1j * y)).sum((1, 2)) / light.sum((1, 2))


@pytest.mark.parametrize("tempo", [80.0, 120.0, 150.0])
def test_the_shape_goes_round_once_in_four_beats(tempo):
    """The tempo must be there to be seen, or a video could not tell it."""
    seconds = 6.0
    frames = np.stack(list(draw_frames(replace(FACTORS, tempo=tempo, energy=1.0), _random(), seconds)))
    assert frames.shape == (90, 128, 128, 3) and frames.dtype == np.uint8
    turned = np.unwrap(np.angle(_position(frames)))
    orbits = abs(turned[-1] - turned[0]) / (2 * np.pi)
    assert orbits == pytest.approx((seconds - 1 / synthetic.FPS) * tempo / 60 / 4, abs=0.1)


def test_brightness_is_the_planted_energy_and_hue_the_mode():
    def picture(**changes):
        return next(draw_frames(replace(FACTORS, **changes), _random(), 1.0)).astype(float)

    means = [picture(energy=energy).mean() for energy in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert means == sorted(means) and means[-1] > 3 * means[0]
    assert picture(mode="major")[..., 0].mean() > picture(mode="major")[..., 2].mean()  # warm: more red than blue
    assert picture(mode="minor")[..., 0].mean() < picture(mode="minor")[..., 2].mean()


def test_each_timbre_has_a_shape_of_its_own():
    """Two timbres under one shape could not be told by any model."""
    masks = []
    for timbre in TIMBRES:
        frame = next(draw_frames(replace(FACTORS, timbre=timbre, energy=1.0), _random(), 1.0)).astype(float).mean(2)
        masks.append(frame > (frame.min() + frame.max()) / 2)
        assert masks[-1].mean() > 0.05
    for first, second in combinations(masks, 2):
        assert (first ^ second).mean() > 0.01


def test_captions_say_the_factors_in_more_than_one_way():
    said = {caption(FACTORS, _random(seed)) for seed in range(30)}
    assert len(said) == 3
    assert all("flute" in text and "major" in text and "moderate" in text and "medium" in text for text in said)
    assert "slow" in caption(replace(FACTORS, tempo=70.0), _random())
    assert "loud" in caption(replace(FACTORS, energy=0.9), _random())


def test_factors_of_other_videos_are_none():
    assert read_factors(asdict(FACTORS)) == FACTORS
    assert read_factors({}) is None
    assert read_factors({"tempo": 90}) is None
