"""Log-mel frames stand where they say, at the level they say."""

import math

import pytest
import torch

from v2meow.encoders.mel import FLOOR, log_mel

SETTINGS = {"sample_rate": 16_000, "window": 1024, "hop": 640, "mels": 64}


@pytest.mark.parametrize(("window", "hop"), [(1024, 640), (512, 128), (1280, 320), (641, 320)])
@pytest.mark.parametrize("frames", [1, 3, 25])
def test_there_is_one_frame_a_hop(window, hop, frames):
    """One id too few a window, and ids and codes no longer line up."""
    mel = log_mel(torch.zeros(2, frames * hop), sample_rate=16_000, window=window, hop=hop, mels=20)
    assert mel.shape == (2, frames, 20)


def test_a_frame_is_centred_on_its_own_hop():
    """Features that look half a frame ahead would tie ids to the wrong pictures."""
    for frame in range(1, 9):
        click = torch.zeros(1, 10 * 640)
        click[0, round((frame + 0.5) * 640)] = 1.0
        energy = log_mel(click, **SETTINGS).exp().square().sum(-1)[0].tolist()
        assert energy.index(max(energy)) == frame
        assert energy[frame - 1] == pytest.approx(energy[frame + 1], rel=0.1)  # symmetric


def test_silence_is_the_floor_and_higher_tones_lie_in_higher_bands():
    assert log_mel(torch.zeros(1, 6400), **SETTINGS).allclose(torch.tensor(math.log(FLOOR)))
    time = torch.arange(6400) / 16_000
    bands = [
        int(log_mel(torch.sin(2 * math.pi * pitch * time)[None], **SETTINGS)[0, 5].argmax())
        for pitch in (220, 880, 3520)
    ]
    assert bands == sorted(set(bands))
