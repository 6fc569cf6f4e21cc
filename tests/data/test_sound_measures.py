"""What a clip sounds like, in figures that mean what they say."""

import math

import av
import numpy as np
import pytest

from v2meow.data import measure
from v2meow.data.measure import SILENCE_LUFS, describe, lufs, music_score, silent_share, tempo

RATE = 16_000


def _noise(seconds, amplitude=0.1):
    return np.asarray(np.random.default_rng(0).normal(0, amplitude, round(seconds * RATE)), np.float32)


def _clicks(beats_a_minute, seconds=8):
    wave = np.zeros(seconds * RATE, np.float32)
    click = _noise(0.05, 0.3) * np.linspace(1, 0, round(0.05 * RATE), dtype=np.float32)
    for at in np.arange(0, seconds - 0.1, 60 / beats_a_minute):
        first = round(at * RATE)
        wave[first : first + len(click)] += click
    return wave


def test_loudness_is_that_of_the_broadcasters():
    """EBU Tech 3341, case 1: a stereo sine of 1 kHz at -23 dBFS is -23 LUFS; one channel alone is 3 dB below."""
    sine = (10 ** (-23 / 20) * np.sin(2 * math.pi * 1_000 * np.arange(20 * 48_000) / 48_000)).astype(np.float32)
    assert lufs(sine, 48_000) == pytest.approx(-26.0, abs=0.1)
    assert lufs(np.zeros(48_000, np.float32), 48_000) == SILENCE_LUFS


def test_silence_is_a_share_of_time():
    """A track that is silent for half the clip has an ordinary mean loudness."""
    wave = _noise(4)
    wave[2 * RATE :] = 0
    assert silent_share(wave, RATE) == 0.5
    assert silent_share(np.zeros(10, np.float32), RATE) == 1.0


def test_clipping_is_a_share_of_samples():
    loud = np.clip(12 * _noise(4), -1, 1)
    assert describe(loud, RATE).clipped_share == pytest.approx(float(np.mean(np.abs(loud) == 1)), abs=0.01)
    assert describe(_noise(4), RATE).clipped_share == 0


@pytest.mark.parametrize("beats", [72, 96, 120, 144])
def test_the_tempo_is_that_of_the_clicks(beats):
    """An error of an octave is heard as the music of another film; of the usual tempi none is made."""
    assert tempo(_clicks(beats), RATE) == pytest.approx(beats, rel=0.02)


def test_what_has_no_beat_has_no_tempo():
    drone = (0.1 * np.sin(2 * math.pi * 220 * np.arange(4 * RATE) / RATE)).astype(np.float32)
    assert tempo(drone, RATE) == 0 and tempo(np.zeros(4 * RATE, np.float32), RATE) == 0


def test_too_short_and_silent_clips_have_figures():
    """A recipe of clips of half a second must not fail where music is looked for."""
    for wave in (np.zeros(RATE // 2, np.float32), np.zeros(4 * RATE, np.float32), _noise(0.5)):
        assert all(math.isfinite(value) for value in vars(describe(wave, RATE)).values())


def _sound(path):
    """The first seconds of a sound file, mixed to mono; it is one of our own test media."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("flt", "mono", RATE)
        parts = [part.to_ndarray()[0] for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    return np.concatenate(parts)[: 13 * RATE]


def test_music_scores_above_speech_and_speech_above_noise(media_folder):
    """A score that takes read speech for music lets audio books into the catalogue."""

    def score(name):
        wave, length = _sound(media_folder / "music" / f"{name}.ogg"), 4 * RATE
        return float(
            np.mean([music_score(wave[at : at + length], RATE) for at in range(0, len(wave) - length, length)])
        )

    music = [score(name) for name in ("hungarian_dance5_strings", "vibe_ace_jazz", "viper_rock", "acestep_song")]
    assert music_score(_noise(4), RATE) < 0.2 < score("speech_librivox") < 0.5 < min(music)


def test_what_is_told_of_nothing_at_once_is_what_listening_tells():
    """Hours of digital silence took minutes to be refused."""
    for seconds in (0.5, 4.0, 10.0):
        nothing = np.zeros(round(seconds * 16_000), np.float32)
        assert measure.describe(nothing, 16_000) == measure._describe(nothing, 16_000)
