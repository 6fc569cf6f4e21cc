"""A service whose music is marked: every form of it, and the same as the command line makes with the same secret."""

import io
from pathlib import Path

import av
import numpy as np
import pytest
from local_server import Loop, ask, local_server

from serving import start
from v2meow.generate.files import Order, generate_file
from v2meow.generate.watermark import WatermarkError, find
from v2meow.media import read_wav

SECRET = b"sixteen bytes ok"


@pytest.fixture
def secret(tmp_path) -> Path:
    file = tmp_path / "secret"
    file.write_bytes(SECRET)
    return file


@pytest.mark.parametrize("form", ["wav", "ogg", "mp4", "fmp4"])
def test_every_form_of_the_music_is_marked(loop: Loop, settings, long_clip, secret, form):
    with local_server(loop, settings(watermark=str(secret))) as server, server.client() as client:
        answer = ask(client, long_clip, seed=3, seconds=8, format=form)
    resampler = av.AudioResampler("flt", "mono", 16_000)
    with av.open(io.BytesIO(answer.content), "r") as file:
        frames = [part for frame in file.decode(audio=0) for part in resampler.resample(frame)]
    mark = find(np.concatenate([frame.to_ndarray()[0] for frame in frames])[: 8 * 16_000], SECRET)
    assert mark is not None
    assert f"{mark.payload:08x}" == answer.headers["x-model-digest"][:8]


def test_it_is_the_music_of_the_command_line(loop: Loop, settings, clip, tiny_model, tmp_path, secret):
    """With the mark, sample for sample; without a secret nothing changes."""
    generate_file(clip, tmp_path / "out.mp4", tiny_model, Order(seed=3, wav=True, watermark=secret))
    expected = read_wav(tmp_path / "out.wav")[0]
    heard = {}
    for name, values in {"marked": {"watermark": str(secret)}, "plain": {}}.items():
        with local_server(loop, settings(**values)) as server, server.client() as client:
            answer = ask(client, clip, seed=3)
            assert int(answer.headers["content-length"]) == len(answer.content)
            (tmp_path / "heard.wav").write_bytes(answer.content)
            heard[name] = read_wav(tmp_path / "heard.wav")[0]
    assert np.array_equal(heard["marked"], expected)
    assert 0 < np.abs(heard["marked"] - heard["plain"]).max() < 0.1


def test_a_secret_that_cannot_be_used_is_told_before_anything_is_started(tmp_path):
    (tmp_path / "secret").write_text("short")
    (tmp_path / "settings.yaml").write_text(f"{{open: true, watermark: {tmp_path / 'secret'}}}")
    with pytest.raises(WatermarkError, match="16 bytes"):
        start.settings_for(tmp_path / "settings.yaml", None, None, None, open_to_all=True)
