"""What we write ourselves: WAV and the videos of the synthetic catalogue."""

from pathlib import Path

import numpy as np
import pytest
from numbered import numbers, picture

from v2meow.media import Reader, read_wav, write_video, write_wav


def _tone(seconds: float, rate: int) -> np.ndarray:
    return 0.4 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate).astype(np.float32)


def test_wav_comes_back(tmp_path: Path):
    """Scaling by 32768 wraps full scale round to its opposite; values outside must be clipped, not wrapped."""
    wave = np.array([0, 0.5, -0.5, 1, -1, 1.5, -1.5], np.float32)
    write_wav(tmp_path / "a.wav", wave, 16_000)
    back, rate = read_wav(tmp_path / "a.wav")
    assert rate == 16_000
    np.testing.assert_allclose(back, np.clip(wave, -1, 1), atol=1 / 32767)


def test_video_comes_back(tmp_path: Path, reader: Reader):
    """The catalogue's truth is by time: pictures and sound must come back where they were put."""
    path, tone = tmp_path / "a.mp4", _tone(5.0, 16_000)
    tone[:32_000] = 0
    write_video(path, (picture(i) for i in range(50)), 10.0, tone, 16_000)
    about = reader.probe(path)
    assert (about.width, about.height, about.fps, about.video_codec) == (64, 64, 10.0, "h264")
    assert about.seconds == pytest.approx(5.0) and about.audio is not None
    assert about.audio.seconds == pytest.approx(5.0, abs=0.02)
    assert numbers(reader.frames(path, 10, 64)) == list(range(50))
    heard = reader.waveform(path, 16_000)
    assert np.flatnonzero(np.abs(heard) > 0.1)[0] == pytest.approx(32_000, abs=80)
    assert np.abs(heard).max() == pytest.approx(0.4, abs=0.05)


def test_equal_input_gives_equal_bytes(tmp_path: Path):
    """Dates, versions or threads in a file would make every rebuilt catalogue a new one."""
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, (picture(i) for i in range(30)), 12.5, _tone(2.4, 16_000), 16_000)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_failed_video_leaves_no_file(tmp_path: Path):
    """A half-written video that looks like one poisons the catalogue."""

    def pictures():
        yield picture(0)
        raise KeyError("the painter failed")

    with pytest.raises(KeyError):
        write_video(tmp_path / "a.mp4", pictures(), 10.0, _tone(1.0, 16_000), 16_000)
    assert list(tmp_path.iterdir()) == []
