"""Sound as Ogg/Opus, piece by piece: early, without seams, and the same music."""

import io

import av
import numpy as np
import pytest

from v2meow.media import OggOpus, write_ogg

RATES = [16_000, 24_000, 44_100]


def _music(rate: int, seconds: float) -> np.ndarray:
    """A rising chord with some noise."""
    time = np.arange(round(seconds * rate)) / rate
    chord = sum(np.sin(2 * np.pi * (base * time + 20 * time**2)) for base in (220, 277, 330))
    return (0.15 * chord + 0.02 * np.random.default_rng(0).normal(size=len(time))).astype(np.float32)


def _heard(ogg: bytes) -> np.ndarray:
    """All that a player decodes, at 48 kHz."""
    with av.open(io.BytesIO(ogg), "r") as file:
        return np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])


def _resampled(sound: np.ndarray, rate: int) -> np.ndarray:
    frame = av.AudioFrame.from_ndarray(sound[None], "flt", "mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler("flt", "mono", 48_000)
    return np.concatenate([part.to_ndarray()[0] for part in resampler.resample(frame) + resampler.resample(None)])


def _in_pieces(sound: np.ndarray, rate: int, sizes: list[int]) -> bytes:
    made, parts = OggOpus(rate, "x"), np.split(sound, np.cumsum(sizes))
    return b"".join([*map(made.add, parts), *made.end()])


@pytest.mark.parametrize("rate", RATES)
def test_the_music_comes_back(rate: int):
    """As long, where it was, and near the samples that went in."""
    sound = _music(rate, 3.37)
    made = OggOpus(rate)
    heard, meant = _heard(made.add(sound) + b"".join(made.end())), _resampled(sound, rate)
    assert len(heard) == pytest.approx(len(meant), abs=0.02 * 48_000)
    count = min(len(heard), len(meant))
    assert np.corrcoef(heard[:count], meant[:count])[0, 1] > 0.99
    assert np.abs(heard).max() == pytest.approx(np.abs(meant).max(), rel=0.1)


@pytest.mark.parametrize("sizes", [[1, 7, 0, 30_000], [14_400, 16_000], [320] * 100], ids=["odd", "chunks", "packets"])
def test_pieces_leave_no_seam(sizes: list[int]):
    """A resampler or an encoder that begins anew with each piece clicks there. Not even a byte differs."""
    sound = _music(16_000, 3.37)
    assert _in_pieces(sound, 16_000, sizes) == _in_pieces(sound, 16_000, [])


@pytest.mark.parametrize("rate", RATES)
def test_sound_leaves_at_once(rate: int):
    """A page of a second, which containers love, would be a second that nobody hears."""
    sound, made = _music(rate, 3.0), OggOpus(rate)
    come = b""
    for end in range(1, 4):
        come += made.add(sound[(end - 1) * rate : end * rate])
        assert end - 0.1 <= len(_heard(come)) / 48_000 <= end


def test_it_says_where_it_comes_from_and_when_it_ends(tmp_path):
    write_ogg(tmp_path / "a.ogg", _music(16_000, 1.0), 16_000, '{"seed":3}')
    content = (tmp_path / "a.ogg").read_bytes()
    with av.open(io.BytesIO(content), "r") as file:
        assert file.streams.audio[0].metadata["comment"] == '{"seed":3}'
    last = content.rindex(b"OggS")
    assert content[last + 5] & 4, "no page says that it is the last"
