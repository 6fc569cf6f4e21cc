"""Features belong to times, not to pictures: a film is the same film at any rate of pictures, steady or not."""

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.stream import VideoStream
from pretrained import MODEL, tiny_clip
from safetensors.torch import save_file

from v2meow.config import ClipConfig, FlowConfig, MotionConfig
from v2meow.encoders.visual import motion
from v2meow.encoders.visual.clip import Clip
from v2meow.encoders.visual.flow import flow_windows, optical_flow
from v2meow.media import Reader

SECONDS, HEIGHT, WIDTH = 4, 72, 128
RATES = (1, 5, 24, 25, 30, 60, "variable")
_TICKS = 600  # a second: whole at all of these rates


def _scene(time: float) -> np.ndarray:
    """A disc that goes right by 8 pixels a second over a waving ground whose colour changes: [HEIGHT, WIDTH, 3]."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    ground = 90 + 30 * np.sin(x / 7 + y / 11) + 20 * np.sin(y / 5)
    disc = np.clip(14.5 - np.hypot(x - 40 - 8 * time, y - 36), 0, 1)
    shaded = 200 + 25 * np.sin((x - 8 * time) / 3) * np.sin(y / 3)
    grey = ground * (1 - disc) + shaded * disc
    hue = [1.0, 0.7 + 0.2 * math.sin(time), 0.7 + 0.2 * math.cos(time)]
    return np.clip(grey[..., None] * hue, 0, 255).astype(np.uint8)


def _ticks(rate: int | str) -> list[int]:
    """When each picture begins, in 1/600 s."""
    if rate != "variable":
        return list(range(0, SECONDS * _TICKS, _TICKS // int(rate)))
    between = np.random.default_rng(0).choice(np.arange(1, SECONDS * _TICKS), 90, replace=False)
    return sorted({*between.tolist(), *range(0, SECONDS * _TICKS, _TICKS)})


def _write(path: Path, ticks: Sequence[int]) -> Path:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=_TICKS, width=WIDTH, height=HEIGHT, options={"crf": "6"})
        assert isinstance(stream, VideoStream)
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, _TICKS)
        for tick in ticks:
            frame = av.VideoFrame.from_ndarray(_scene(tick / _TICKS), "rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, _TICKS)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> dict[int | str, Path]:
    folder = tmp_path_factory.mktemp("films")
    return {rate: _write(folder / f"{rate}.mp4", _ticks(rate)) for rate in RATES}


def _read(reader: Reader, film: Path, config: ClipConfig | FlowConfig | MotionConfig) -> np.ndarray:
    return reader.frames(film, config.frame_rate, config.size, 0.0, SECONDS, whole=config.whole)


def _scenes(rate: float) -> np.ndarray:
    return np.stack([_scene(i / rate) for i in range(round(SECONDS * rate))])


def test_motion_at_a_time_is_the_same_at_any_rate_of_pictures(films, reader):
    """Rows counted by pictures would drift apart; at whole seconds all these films show the same picture.

    A picture that is 0.1 s late differs by 0.8 of what a second changes.
    """
    config = MotionConfig(kind="motion", rate=1.0, size=64)
    features = {rate: motion(_read(reader, film, config)) for rate, film in films.items()}
    changes = np.abs(np.diff(features[60], axis=0)).max(axis=0)
    told = changes > 0.05
    assert told.sum() > 10  # features that tell one second from the next
    for rate, found in features.items():
        assert found.shape == features[60].shape
        assert (np.abs(found - features[60]) < 0.3 * changes)[:, told].all(), rate


def test_embeddings_at_a_time_are_the_same_at_any_rate_of_pictures(films, reader, tmp_path):
    config = ClipConfig(kind="clip", asset="clip", model=MODEL, rate=1.0, batch=4, bfloat16=False)
    save_file(tiny_clip(tmp_path).state_dict(), tmp_path / "open_clip_model.safetensors")
    clip = Clip(config, tmp_path, torch.device("cpu"))
    expected = clip(_scenes(config.rate))
    apart = np.abs(np.diff(expected, axis=0)).max()
    for rate, film in films.items():
        assert np.abs(clip(_read(reader, film, config)) - expected).max() < 0.3 * apart, rate


def test_flow_around_a_time_is_the_same_at_any_rate_of_pictures(films, reader):
    """Taken between the pictures of a file, flow would be twice as fast at 30 pictures a second as at 60."""
    config = FlowConfig(
        kind="i3d-flow", asset="i3d", rate=1.0, frame_rate=5.0, window_frames=8, batch=1, bfloat16=False
    )
    window = flow_windows(round(SECONDS * config.frame_rate), config)[2]
    pixels = {}
    for rate, film in films.items():
        if rate != 1:  # it shows no picture in between
            found = optical_flow(_read(reader, film, config), window, config.size)
            pixels[rate] = float(found.mean(0)[100:124, 100:140, 0].mean() * 20)
    expected = 8 / config.frame_rate * config.size / HEIGHT
    assert pixels == {rate: pytest.approx(expected, rel=0.15) for rate in pixels}
