"""Broken, odd and trap files: each ends in a documented good result or in one clear line, and soon."""

import socket
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numbered import write_numbered

from v2meow.config import MediaConfig
from v2meow.media import MediaError, Reader

_HANG_S = 30
# The reason that `probe` must give.
REFUSED = {
    "audio_only.mp4": "no video stream",
    "bomb_16000x16000.mp4": "picture 16000x16000 is larger than 40000000 pixels",
    "playlist_ssrf.mp4": "not a video: Invalid data found when processing input",
    "rate_2147483647.avi": "the soundtrack's sample rate 2147483647 Hz is outside 4000…384000 Hz",
    "real_chunk_out_of_range.mp4": "not a video: Invalid data found when processing input",
    "real_zero_empty_stsc.mp4": "no frames could be decoded",
    "text_file.mp4": "not a video: Invalid data found when processing input",
    "trunc_no_moov.mp4": "not a video: Invalid data found when processing input",
    "zero_bytes.mp4": "not a video: the file is empty",
    "zero_frames.mp4": "no frames could be decoded",
}
# The length in seconds of what is on screen.
READ = {
    "antiphase_stereo.mov": 6.0,
    "audio_longer_than_video.mp4": 2.083,
    "long_silent_audio_2h.mp4": 10.0,
    "missing_pts.mkv": 4.0,
    "mono_8k.mp4": 6.0,
    "one_frame.mp4": 0.042,
    "real_failing_audio.mp4": 11.2,
    "really_webm.mp4": 4.0,
    "short_0_2s.mp4": 0.208,
    "surround_5_1.mp4": 8.0,
    "three_audio_tracks.mkv": 6.0,
    "tiny_16x4.mkv": 2.0,
    "trunc_faststart.mp4": 2.708,  # its header claims 6
    "vfr.mp4": 5.875,
}


def test_every_hostile_file_has_an_expectation(media_folder: Path):
    names = {path.name for path in (media_folder / "hostile").iterdir()}
    assert names == REFUSED.keys() | READ.keys()


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_in_one_line(name: str, media_folder: Path, reader: Reader):
    """A traceback, a hang or a vague word where a person needs the file and the reason."""
    path, started = media_folder / "hostile" / name, time.monotonic()
    with pytest.raises(MediaError) as refused:
        reader.probe(path)
    assert str(refused.value) == f"{path}: {REFUSED[name]}"
    for operation in (lambda: reader.frames(path, 2, 32), lambda: reader.waveform(path, 8_000)):
        try:
            operation()
        except MediaError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    assert time.monotonic() - started < _HANG_S


@pytest.mark.parametrize("name", READ)
def test_what_can_be_used_is_read(name: str, media_folder: Path, reader: Reader):
    """Odd but good files that a strict reader loses; a soundtrack that makes a short video long."""
    path, started = media_folder / "hostile" / name, time.monotonic()
    about = reader.probe(path)
    assert about.seconds == pytest.approx(READ[name], abs=0.03)
    assert reader.frames(path, 4, 32).shape == (max(1, round(about.seconds * 4)), 32, 32, 3)
    sound = reader.waveform(path, 8_000)
    assert sound.shape == (round(about.seconds * 8_000),)
    assert np.isfinite(sound).all() and np.abs(sound).max() <= 1
    assert time.monotonic() - started < _HANG_S


def test_the_default_track_is_heard(media_folder: Path, reader: Reader):
    """Of three tracks the first is speech and the last is silence; players start the one flagged as default."""
    path = media_folder / "hostile" / "three_audio_tracks.mkv"
    about = reader.probe(path)
    assert about.audio is not None and (about.audio.codec, about.audio.sample_rate) == ("aac", 44_100)
    assert reader.waveform(path, 8_000).std() > 0.01


@pytest.mark.parametrize("operation", ["probe", "waveform"])
def test_a_long_soundtrack_costs_what_the_video_does(media_folder: Path, reader: Reader, operation: str):
    """Two hours of sound under ten seconds of video, decoded, are half a gigabyte."""
    path, started = media_folder / "hostile" / "long_silent_audio_2h.mp4", time.monotonic()
    reader.probe(path) if operation == "probe" else reader.waveform(path, 48_000)
    assert time.monotonic() - started < 3


def test_a_playlist_named_as_a_video_reaches_nothing(tmp_path: Path, reader: Reader):
    """A playlist makes the server fetch addresses and files of the sender's choice."""
    write_numbered(tmp_path / "secret.ts", container="mpegts")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/segment.ts"
        texts = {
            "hls.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{address}\n#EXT-X-ENDLIST\n",
            "local.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{tmp_path}/secret.ts\n#EXT-X-ENDLIST\n",
            "concat.mp4": f"ffconcat version 1.0\nfile '{tmp_path}/secret.ts'\nfile '{address}'\n",
            "session.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
        }
        for name, text in texts.items():
            (tmp_path / name).write_text(text)
            with pytest.raises(MediaError, match="not a video"):
                reader.probe(tmp_path / name)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_name_is_a_file_and_no_address(tmp_path: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch):
    """FFmpeg takes `concat:a|b` or `pipe:0` for a protocol unless the path is absolute."""
    monkeypatch.chdir(tmp_path)
    write_numbered(tmp_path / "a.mp4").rename("concat:a|b.mp4")
    assert reader.probe(Path("concat:a|b.mp4")).width == 64
    for name in ("pipe:0", "missing.mp4", "."):
        with pytest.raises(MediaError, match="no such file"):
            reader.probe(Path(name))


def test_more_pixels_than_allowed_are_refused(tmp_path: Path, limits: MediaConfig):
    video = write_numbered(tmp_path / "a.mp4")
    refused = pytest.raises(MediaError, match="picture 64x64 is larger than 4095 pixels")
    with Reader(replace(limits, max_pixels=64 * 64 - 1)) as reader, refused:
        reader.frames(video, 1, 32)


def test_streams_that_appear_late_are_passed_over(tmp_path: Path, reader: Reader):
    """A transport stream may grow new streams on its way; PyAV fails at its end then."""
    first = write_numbered(tmp_path / "a.ts", container="mpegts")
    second = write_numbered(tmp_path / "b.ts", container="mpegts", options={"mpegts_start_pid": "0x300"})
    (tmp_path / "both.ts").write_bytes(first.read_bytes() + second.read_bytes())
    assert reader.probe(tmp_path / "both.ts").seconds == pytest.approx(10.0, abs=0.1)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi"])
def test_damaged_bytes_end_in_one_line_or_a_picture(name: str, tmp_path: Path, reader: Reader):
    """Damage anywhere: nothing may escape as another error, least of all one that blames no file."""
    audio = "libmp3lame" if name == "a.avi" else "aac"
    whole = write_numbered(tmp_path / name, audio=audio).read_bytes()
    random = np.random.default_rng(0)
    for _ in range(12):
        damaged = np.frombuffer(whole, np.uint8).copy()
        places = random.integers(0, len(damaged) if random.random() < 0.5 else 3_000, 30)
        damaged[places] = random.integers(0, 256, len(places))
        (tmp_path / name).write_bytes(damaged.tobytes()[: random.integers(2_000, 2 * len(damaged))])
        for operation in (
            lambda: reader.probe(tmp_path / name),
            lambda: reader.frames(tmp_path / name, 2, 16, start=3.0, seconds=2.0),
            lambda: reader.waveform(tmp_path / name, 8_000),
        ):
            try:
                operation()
            except MediaError as error:
                assert "could not be read" not in str(error) and "crashed" not in str(error)


def test_a_video_that_is_too_long_is_refused(tmp_path: Path, limits: MediaConfig):
    video = write_numbered(tmp_path / "a.mkv")
    refused = pytest.raises(MediaError, match="video of 10 s is longer than 9 s")
    with Reader(replace(limits, max_seconds=9.0)) as reader, refused:
        reader.probe(video)
