"""A scored video that leaves while its music is made: it plays as far as it has come, and in the end all of it."""

import io
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from numbered import FPS, PICTURES, lag_ms, numbers, write_numbered
from test_mux import COPIED, ENCODED

from v2meow.config import MediaConfig
from v2meow.media import MediaError, Reader, Scoring, Spare

RATE, SECONDS = 16_000, PICTURES / FPS
KINDS = COPIED | ENCODED


@pytest.fixture
def spare() -> Iterator[Spare]:
    spare = Spare()
    yield spare
    spare.close()


def _scored(spare: Spare, limits: MediaConfig, video: Path, music: np.ndarray, comment: str = "") -> list[bytes]:
    """What comes out for each second of music, and at last the rest."""
    scoring = Scoring(limits, video, RATE, comment, spare)
    try:
        parts = [scoring.add(music[place : place + RATE]) for place in range(0, len(music), RATE)]
        return [*parts, b"".join(scoring.end())]
    finally:
        scoring.close()


@pytest.mark.parametrize("name", KINDS)
def test_picture_and_sound_are_all_there_and_in_step(name: str, tmp_path: Path, reader: Reader, spare: Spare):
    """The sound is the video's own: how far it was moved can be measured."""
    video, out = write_numbered(tmp_path / name, **KINDS[name]), tmp_path / "out.mp4"
    out.write_bytes(b"".join(_scored(spare, reader.limits, video, reader.waveform(video, RATE))))
    shown = [numbers(reader.frames(path, FPS, 64, seconds=SECONDS - 0.5)) for path in (video, out)]
    assert shown[0] == shown[1]
    before, after = reader.probe(video), reader.probe(out)
    assert after.audio is not None
    assert after.audio.seconds == pytest.approx(before.seconds, abs=0.022)  # one packet of AAC is 21.3 ms
    # Fragments tell of a picture's length by when the next is decoded, which is off where an AVI's times are uneven.
    assert after.seconds == pytest.approx(before.seconds, abs=0.13 if name.endswith(".avi") else 0.02)
    lags = [lag_ms(reader.waveform(path, RATE), 0.0, RATE) for path in (video, out)]
    assert abs(lags[0] - lags[1]) <= 1


@pytest.mark.parametrize("name", ["plain.mp4", "vp8.webm"])
def test_what_has_come_can_be_played(name: str, tmp_path: Path, reader: Reader, spare: Spare):
    """All but 0.3 s of the sound so far: a player needs no more than it has."""
    video = write_numbered(tmp_path / name, **KINDS[name])
    come = b""
    for second, part in enumerate(_scored(spare, reader.limits, video, reader.waveform(video, RATE))[:5], 1):
        come += part
        (tmp_path / "come.mp4").write_bytes(come)
        about = reader.probe(tmp_path / "come.mp4")
        assert about.audio is not None
        assert second - 0.3 <= about.audio.seconds <= second
        assert second - 0.3 <= about.seconds <= second + 0.2


def test_it_says_where_it_comes_from(tmp_path: Path, reader: Reader, spare: Spare):
    video = write_numbered(tmp_path / "a.mp4")
    whole = b"".join(_scored(spare, reader.limits, video, np.zeros(RATE, np.float32), '{"seed":3}'))
    with av.open(io.BytesIO(whole), "r") as file:
        assert file.metadata["comment"] == '{"seed":3}'


def test_short_music_is_followed_by_silence_and_long_music_is_cut(tmp_path: Path, reader: Reader, spare: Spare):
    """The rest of a long video comes a second at a time: nobody holds all of it."""
    video, out = write_numbered(tmp_path / "a.mp4"), tmp_path / "out.mp4"
    noise = reader.waveform(video, RATE)
    for music in (noise[: 3 * RATE], np.concatenate((noise, noise))):
        scoring = Scoring(reader.limits, video, RATE, "", spare)
        parts = [scoring.add(music), *scoring.end()]
        scoring.close()
        out.write_bytes(b"".join(parts))
        assert reader.probe(out).seconds == pytest.approx(SECONDS, abs=0.02)
        heard = reader.waveform(out, RATE)
        assert abs(heard[: 3 * RATE]).max() > 0.1
        assert bool((abs(heard[4 * RATE :]) > 0.01).any()) == (len(music) > 3 * RATE)
    assert len(parts) == 2


@pytest.mark.parametrize("name", ["zero_frames.mp4", "text_file.mp4", "audio_only.mp4"])
def test_a_file_that_is_no_video_is_refused(name: str, media_folder: Path, reader: Reader, spare: Spare):
    with pytest.raises(MediaError, match=name):
        Scoring(reader.limits, media_folder / "hostile" / name, RATE, "", spare)


def test_one_that_is_given_up_leaves_no_process(tmp_path: Path, reader: Reader, spare: Spare):
    """A client who goes in the middle, while another thread may be encoding."""
    scoring = Scoring(reader.limits, write_numbered(tmp_path / "a.mp4"), RATE, "", spare)
    scoring.add(np.zeros(RATE, np.float32))
    scoring.close()
    assert scoring._child._process.poll() is not None
    with pytest.raises(MediaError):
        scoring.add(np.zeros(RATE, np.float32))


def test_one_is_kept_ready_for_the_next(tmp_path: Path, reader: Reader, spare: Spare):
    """Starting a process takes most of a second, which the first sound would wait for."""
    video, silence = write_numbered(tmp_path / "a.mp4"), np.zeros(RATE, np.float32)
    spare.refill(reader.limits)
    kept = spare.take(reader.limits)
    spare.refill(reader.limits)
    assert spare.take(replace(reader.limits, timeout_s=1.0)) is not kept  # within other limits
    assert kept.idle
    kept.stop()
    _scored(spare, reader.limits, video, silence)
    began = time.monotonic()
    scoring = Scoring(reader.limits, video, RATE, "", spare)
    assert scoring.add(silence)
    assert time.monotonic() - began < 0.3
    os.kill(scoring._child._process.pid, signal.SIGKILL)
    with pytest.raises(MediaError, match="crashed"):
        scoring.add(silence)
    scoring.close()
    assert spare._kept is not None
    os.kill(spare._kept[1]._process.pid, signal.SIGKILL)  # one that died while nobody looked
    spare._kept[1]._process.wait()
    assert b"".join(_scored(spare, reader.limits, video, silence))


def test_none_is_kept_after_the_end(reader: Reader, spare: Spare):
    spare.refill(reader.limits)
    assert spare._kept is not None
    child = spare._kept[1]
    spare.close()
    spare.refill(reader.limits)
    assert not child.idle and spare._kept is None
