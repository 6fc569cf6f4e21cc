"""Music under a video: the picture untouched, the sound exactly under it."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numbered import FPS, PICTURES, lag_ms, numbers, write_numbered

from v2meow.media import MediaError, Reader

RATE = 16_000
MUSIC = 0.3 * np.convolve(np.random.default_rng(1).normal(size=RATE * 12), np.ones(4) / 4, "same").astype(np.float32)
COPIED: dict[str, dict[str, Any]] = {
    "plain.mp4": {},
    "opengop.mp4": {"video_options": {"x264-params": "open-gop=1:bframes=3"}},
    "hevc.mp4": {"video": "libx265", "video_options": {"x265-params": "log-level=none"}},
    "cues.mkv": {},
    "vp9.webm": {"video": "libvpx-vp9", "audio": "libopus", "video_options": {"cpu-used": "8"}},
    "late_start.ts": {"container": "mpegts"},
}
ENCODED: dict[str, dict[str, Any]] = {
    "vp8.webm": {"video": "libvpx", "audio": "libopus"},
    "reordered.avi": {"audio": "libmp3lame"},
    "mpeg2.mpg": {"video": "mpeg2video", "audio": "mp2"},
}


def _click(at: float, seconds: float) -> np.ndarray:
    """Silence but for a tone from `at` s on."""
    wave = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(round(seconds * RATE)) / RATE).astype(np.float32)
    wave[: round(at * RATE)] = 0
    return wave


def _video_packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as file:
        return [bytes(packet) for packet in file.demux(file.streams.video[0]) if packet.size]


def _check_sound(path: Path, seconds: float, reader: Reader) -> None:
    """One soundtrack, as long as the picture within 20 ms, its tone at 1.5 s within 5 ms."""
    with av.open(str(path)) as file:
        assert [stream.type for stream in file.streams] == ["video", "audio"]
    about = reader.probe(path)
    assert about.audio is not None
    assert (about.audio.codec, about.audio.seconds) == ("aac", pytest.approx(seconds, abs=0.02))
    heard = reader.waveform(path, RATE)
    assert np.flatnonzero(np.abs(heard) > 0.1)[0] == pytest.approx(1.5 * RATE, abs=0.005 * RATE)


@pytest.mark.parametrize("name", COPIED)
def test_pictures_are_copied_where_mp4_holds_them(name: str, tmp_path: Path, reader: Reader):
    """Encoding again costs minutes and quality; a copy that is shifted in time plays out of step."""
    video, out = write_numbered(tmp_path / name, **COPIED[name]), tmp_path / "out.mp4"
    reader.mux(video, _click(1.5, 12.0), RATE, out)
    assert numbers(reader.frames(out, FPS, 64, seconds=PICTURES / FPS)) == list(range(PICTURES))
    if not name.endswith(".ts"):  # MP4 stores H.264 with lengths instead of start codes
        assert _video_packets(out) == _video_packets(video)
    _check_sound(out, PICTURES / FPS, reader)


@pytest.mark.parametrize("name", ENCODED)
def test_other_pictures_are_encoded_anew(name: str, tmp_path: Path, reader: Reader):
    """VP8 in MP4 plays nowhere; AVI's missing display times must not scramble the pictures."""
    video, out = write_numbered(tmp_path / name, **ENCODED[name]), tmp_path / "out.mp4"
    reader.mux(video, _click(1.5, 12.0), RATE, out)
    about = reader.probe(out)
    assert about.video_codec == "h264"
    before, after = (numbers(reader.frames(path, FPS, 64, seconds=9.5)) for path in (video, out))
    assert before == after
    _check_sound(out, reader.probe(video).seconds, reader)


def test_short_music_is_followed_by_silence(tmp_path: Path, reader: Reader):
    """A soundtrack that ends early makes players loop or stop."""
    video, out = write_numbered(tmp_path / "a.mp4"), tmp_path / "out.mp4"
    reader.mux(video, MUSIC[: 3 * RATE], RATE, out)
    heard = reader.waveform(out, RATE)
    assert len(heard) == 10 * RATE
    assert abs(heard[: 3 * RATE]).max() > 0.1 and not (abs(heard[4 * RATE :]) > 0.01).any()


def test_real_videos_keep_picture_and_length(media_folder: Path, reader: Reader, tmp_path: Path):
    """GIF, alpha, variable rate, odd height and rotation metadata, each lost by some way of muxing."""
    out = tmp_path / "out.mp4"
    for name in ("cars_12fps.gif", "coffee_portrait_rot90.mp4", "titles_vfr.mov", "nasa_speech_8k.mp4"):
        video = media_folder / "silent_videos" / name
        reader.mux(video, _click(1.5, 20.0), RATE, out)
        before, after = reader.probe(video), reader.probe(out)
        assert after.rotation == before.rotation, name
        assert after.seconds == pytest.approx(before.seconds, abs=0.02), name
        assert (after.width, after.height) == (before.width, before.height + before.height % 2), name
        _check_sound(out, before.seconds, reader)
        shown = [reader.frames(path, 5, 32, seconds=5.0).astype(float) for path in (video, out)]
        assert np.abs(shown[0] - shown[1]).mean() < 4, name


def test_music_is_where_it_was_put(tmp_path: Path, reader: Reader):
    """Encoder priming delays sound by 21 ms unless the file says so."""
    video, out = write_numbered(tmp_path / "a.mp4"), tmp_path / "out.mp4"
    noise = reader.waveform(video, RATE)
    reader.mux(video, noise, RATE, out)
    assert abs(lag_ms(reader.waveform(out, RATE), 0.0, RATE)) <= 1


def test_a_broken_video_leaves_no_file(media_folder: Path, reader: Reader, tmp_path: Path):
    """A failed request must not leave a file that a page would offer for download."""
    for name in ("zero_frames.mp4", "text_file.mp4", "audio_only.mp4"):
        with pytest.raises(MediaError, match=name):
            reader.mux(media_folder / "hostile" / name, MUSIC, RATE, tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode != 0:
        pytest.skip("a small disk can be mounted by root only")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_not_the_videos_fault(full_disk: Path, reader: Reader, tmp_path: Path):
    """A MediaError would tell the user that the video is bad."""
    video = write_numbered(tmp_path / "a.mp4")
    with pytest.raises(OSError, match=r"could not write .*out\.mp4: No space left on device"):
        reader.mux(video, MUSIC, RATE, full_disk / "out.mp4")
    assert list(full_disk.iterdir()) == []
