"""What is heard is what was played: levels in closed form, clicks, scales."""

import numpy as np
import pytest
import torch
from torchaudio.functional import resample

from v2meow.data import synthetic
from v2meow.evaluate import listen
from v2meow.evaluate.beats import f_measure

RATE = 16_000
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}


def _sine(frequency: float, seconds: float, amplitude: float = 0.5) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE)


def _tensor(*waveforms: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(waveforms)).float()


def _clicks(beats_a_minute: float, seconds: float) -> np.ndarray:
    """Decaying bursts on each beat, in a little noise."""
    random = np.random.default_rng(0)
    wave = 0.001 * random.standard_normal(round(seconds * RATE))
    burst = 0.5 * _sine(1000.0, 0.03) * np.exp(-np.arange(round(0.03 * RATE)) / RATE / 0.008)
    for beat in np.arange(0.1, seconds - 0.05, 60 / beats_a_minute):
        first = round(beat * RATE)
        wave[first : first + len(burst)] += burst
    return wave


def _scale(mode: str, key: int) -> np.ndarray:
    """The scale up to the octave, tonic and fifth held longer, as melodies do."""
    degrees = [*SCALES[mode], 12, 7, 0]
    lengths = [0.5, 0.25, 0.3, 0.25, 0.4, 0.25, 0.25, 0.5, 0.4, 0.6]
    notes = [
        sum(_sine(261.63 * 2 ** ((key + degree) / 12) * n, seconds, 0.3 / n) for n in (1, 2, 3))
        for degree, seconds in zip(degrees, lengths, strict=True)
    ]
    return np.concatenate(notes)


@pytest.mark.parametrize("amplitude", [1.0, 0.5, 0.01])
def test_the_level_of_a_sine_is_its_amplitude_over_the_root_of_two(amplitude):
    level = listen.level_dbfs(_tensor(_sine(440.0, 1.0, amplitude)))
    assert level == pytest.approx([20 * np.log10(amplitude / np.sqrt(2))], abs=0.01)


def test_digital_silence_has_a_level_that_json_can_hold():
    """-inf would be refused when the metrics are written, after an hour of evaluation."""
    assert listen.level_dbfs(torch.zeros(1, RATE)).tolist() == [-120.0]


def test_the_clipped_share_counts_both_ends_of_the_scale():
    wave = torch.zeros(2, 1000)
    wave[0, :30], wave[0, 30:50], wave[0, 50:60] = 1.0, -1.0, 0.99
    assert listen.clipped_share(wave) == pytest.approx([0.05, 0.0])


@pytest.mark.parametrize("seconds", [4.0, 8.0])
def test_the_tempo_of_clicks_is_heard_within_four_percent_or_an_octave_off(seconds):
    """Over the whole range that the synthetic catalogue plants."""
    planted = np.arange(70.0, 161.0, 7.5)
    heard = listen.tempo(_tensor(*(_clicks(tempo, seconds) for tempo in planted)), RATE)
    octaves = np.abs(heard[:, None] / planted[:, None] / (0.5, 1.0, 2.0) - 1)
    assert octaves.min(axis=1).max() < 0.04, dict(zip(planted, heard, strict=True))


@pytest.mark.parametrize("mode", SCALES)
def test_the_mode_of_a_scale_is_heard_in_every_key(mode):
    """A key profile that is turned the wrong way still works in the first key."""
    assert listen.mode(_tensor(*(_scale(mode, key) for key in range(12))), RATE) == [mode] * 12


def test_timbre_features_do_not_know_the_level():
    """Else the timbre measure would pass on energy alone."""
    wave = _tensor(_sine(330.0, 2.0) + 0.3 * np.random.default_rng(0).standard_normal(2 * RATE))
    assert listen.timbre_features(wave, RATE) == pytest.approx(listen.timbre_features(wave / 4, RATE), abs=1e-3)


def test_onsets_are_heard_where_notes_begin():
    """Of the catalogue's own music, a note every half beat; closed form of where they stand."""
    random = np.random.default_rng(5)
    factors = [synthetic.draw_factors(random, index) for index in range(8)]
    played = torch.from_numpy(np.stack([synthetic.play(each, random, 4.0) for each in factors]))
    heard = listen.onset_times(resample(played, synthetic.SAMPLE_RATE, RATE), RATE)
    notes = [np.arange(0, 4.0, 30 / each.tempo) for each in factors]
    assert np.mean([f_measure(found, true, 0.05) for found, true in zip(heard, notes, strict=True)]) > 0.9


def test_nothing_begins_in_silence_or_in_a_steady_tone():
    steady = 0.3 * torch.sin(2 * np.pi * 440 * torch.arange(4 * RATE) / RATE)
    silent, tone = listen.onset_times(torch.stack((torch.zeros(4 * RATE), steady)), RATE)
    assert len(silent) == 0 and (len(tone) == 0 or tone.max() < 0.1)


def test_the_curve_of_the_level_is_its_rms_at_each_moment():
    loud = torch.cat((torch.full((1, RATE), 0.5), torch.zeros(1, RATE)), dim=1)
    curve = listen.level_curve(loud, RATE)
    assert curve.shape == (1, 2 * listen.ENVELOPE_RATE)
    assert curve[0, : listen.ENVELOPE_RATE] == pytest.approx(0.5) and not curve[0, listen.ENVELOPE_RATE :].any()
