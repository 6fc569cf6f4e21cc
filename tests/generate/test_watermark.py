"""The mark in the sound: found after compression and cuts, not where it is not, and the same however sound comes."""

import io
import math
from pathlib import Path

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from v2meow.cli import app
from v2meow.data.synthetic import draw_factors, play
from v2meow.generate import watermark
from v2meow.generate.watermark import (
    RATE,
    SURE,
    Marker,
    WatermarkError,
    find,
    marked,
    payload_of,
    read_secret,
)
from v2meow.media import OggOpus, write_wav

SECRET, OTHER = b"sixteen bytes ok", b"another sixteen!"
BUNDLE = "deadbeef" + "0" * 56
CATALOGUE = 44_100  # the rate that the synthetic catalogue's music is played at
MUSIC = range(10)


def _music(index: int, seconds: float = 8.0) -> np.ndarray:
    random = np.random.default_rng(index)
    return play(draw_factors(random, index), random, seconds)


def _noise(rate: int, seconds: float = 6.0) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).normal(size=round(rate * seconds))).astype(np.float32)


def _heard(sound: np.ndarray, rate: int, compressed: bool = True) -> np.ndarray:
    """At RATE; after Ogg/Opus of 96 kbit/s where it is `compressed`."""
    resampler = av.AudioResampler("flt", "mono", RATE)
    if compressed:
        made = OggOpus(rate)
        with av.open(io.BytesIO(made.add(sound) + b"".join(made.end())), "r") as file:
            frames = [part for frame in file.decode(audio=0) for part in resampler.resample(frame)]
    else:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[None]), "flt", "mono")
        frame.sample_rate = rate
        frames = resampler.resample(frame)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames + resampler.resample(None)])


def _cut(sound: np.ndarray, index: int) -> np.ndarray:
    """Five seconds from anywhere."""
    first = int(np.random.default_rng(index).integers(len(sound) - 5 * RATE))
    return sound[first : first + 5 * RATE]


@pytest.mark.parametrize("index", MUSIC)
def test_five_seconds_after_opus_are_enough(index: int):
    music = _music(index)
    mark = find(_cut(_heard(marked(music, SECRET, BUNDLE, CATALOGUE), CATALOGUE), index), SECRET)
    assert mark is not None and mark.payload == payload_of(BUNDLE) == 0xDEADBEEF
    assert mark.chance < SURE


@pytest.mark.parametrize("index", MUSIC)
def test_none_is_found_where_none_is(index: int):
    """Neither in music that was not marked nor by another secret."""
    music = _music(index)
    assert find(_cut(_heard(music, CATALOGUE), index), SECRET) is None
    assert find(_cut(_heard(marked(music, SECRET, BUNDLE, CATALOGUE), CATALOGUE), index), OTHER) is None


@pytest.mark.parametrize("sound", ["noise", "silence", "click", "short"])
def test_nothing_is_found_in_sound_that_is_hardly_music(sound: str):
    waves = {"noise": _noise(RATE), "silence": np.zeros(RATE, np.float32), "short": np.zeros(3, np.float32)}
    waves["click"] = np.eye(1, RATE, 500, dtype=np.float32)[0]
    assert find(waves[sound], SECRET) is None


@pytest.mark.parametrize("rate", [16_000, 24_000, 32_000, 44_100, 48_000])
def test_it_is_found_whatever_the_rate(rate: int):
    mark = find(_heard(marked(_noise(rate), SECRET, BUNDLE, rate), rate, compressed=False), SECRET)
    assert mark is not None and mark.payload == 0xDEADBEEF


def test_it_is_found_somewhere_in_a_long_piece():
    """A minute of which only the last 20 s are marked: it is looked at in parts."""
    music = _music(0, 60.0)
    mixed = np.concatenate((music[: 40 * CATALOGUE], marked(music[40 * CATALOGUE :], SECRET, BUNDLE, CATALOGUE)))
    mark = find(_heard(mixed, CATALOGUE), SECRET)
    assert mark is not None and mark.payload == 0xDEADBEEF


@pytest.mark.parametrize(
    "sizes", [[1, 7, 0, 5000], [14_400, 16_000, 16_000], [160] * 300], ids=["odd", "chunks", "hops"]
)
def test_parts_are_marked_as_the_whole_is(sizes: list[int]):
    """To the bit, and as long: a stream and its file must be the same music."""
    music = _noise(RATE, 3.3)
    marker = Marker(SECRET, 0xDEADBEEF, RATE)
    parts = [marker.add(part) for part in np.split(music, np.cumsum(sizes))]
    assert np.array_equal(np.concatenate([*parts, marker.end()]), marked(music, SECRET, BUNDLE, RATE))


@pytest.mark.parametrize("count", [0, 1, 100, 160, 161, 320, 1000])
def test_no_sample_is_lost_or_late(count: int):
    music = _noise(RATE)[:count]
    marker = Marker(SECRET, 1, RATE)
    early = marker.add(music)
    assert count - len(early) <= 0.02 * RATE
    whole = np.concatenate((early, marker.end()))
    assert len(whole) == count
    assert np.allclose(whole, music, atol=0.1)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_it_lies_far_below_the_music(index: int):
    """22 dB below noise, more below tones, and nothing in silence."""
    music = np.concatenate((_music(index, 4.0), np.zeros(CATALOGUE, np.float32)))
    mark = marked(music, SECRET, BUNDLE, CATALOGUE) - music
    level = 10 * math.log10(float(np.mean(mark**2) / np.mean(music**2)))
    assert -50 < level < -22
    assert np.abs(mark[-CATALOGUE // 2 :]).max() < 1e-6
    noise = _noise(RATE)
    laid = marked(noise, SECRET, BUNDLE, RATE) - noise
    assert 10 * math.log10(float(np.mean(laid**2) / np.mean(noise**2))) == pytest.approx(-22, abs=2.0)


def test_the_bound_on_false_alarms_holds():
    """Of secrets drawn at random few reach any score, however often one looks: here what a bound of 1 % allows."""
    sound = _cut(_heard(_music(3), CATALOGUE), 3)
    chances = [watermark._found(sound.astype(float), b"secret no. %8d" % number).chance for number in range(60)]
    assert np.mean(np.array(chances) < 0.01) <= 0.01


def test_secrets_are_long_enough_and_are_not_told(tmp_path: Path):
    (tmp_path / "short").write_bytes(b"hush\n")
    with pytest.raises(WatermarkError, match="16 bytes") as raised:
        read_secret(tmp_path / "short")
    assert "hush" not in str(raised.value)
    (tmp_path / "secret").write_bytes(SECRET + b"\n")
    assert read_secret(tmp_path / "secret") == SECRET


def test_inspect_says_what_is_written_and_what_is_marked(tmp_path: Path):
    """By its own words, which travel with the file only, and by the mark, which stays in the sound."""
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "other").write_bytes(OTHER)
    sound = marked(_music(1), SECRET, BUNDLE, CATALOGUE)
    write_wav(tmp_path / "a.wav", sound, CATALOGUE, f'{{"bundle":"{BUNDLE}","seed":3}}')
    write_wav(tmp_path / "b.wav", _heard(sound, CATALOGUE)[:80_000], RATE)
    write_wav(tmp_path / "c.wav", sound, CATALOGUE, "made by hand")
    told = CliRunner().invoke(app, ["inspect", str(tmp_path / "a.wav")])
    assert told.exit_code == 0 and f"bundle: {BUNDLE}" in told.output and "seed: 3" in told.output
    assert "watermark" not in told.output
    for name in ("b.wav", "c.wav"):
        told = CliRunner().invoke(app, ["inspect", str(tmp_path / name), "--watermark", str(tmp_path / "secret")])
        assert "nothing is written inside" in told.output and "watermark: bundle deadbeef" in told.output
    told = CliRunner().invoke(app, ["inspect", str(tmp_path / "a.wav"), "--watermark", str(tmp_path / "other")])
    assert "watermark: none of this secret" in told.output
