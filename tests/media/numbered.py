"""Videos whose pictures show their own number and whose sound is a known noise."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.video.stream import VideoStream

PICTURES, FPS, RATE = 240, 24, 48_000
NOISE = (
    0.3 * np.convolve(np.random.default_rng(0).normal(size=RATE * PICTURES // FPS), np.ones(8) / 8, "same")
).astype(np.float32)


def picture(number: int) -> np.ndarray:
    """[64, 64, 3]: eight upright bars, one a bit, lowest first."""
    bits = np.array([(number >> bit) & 1 for bit in range(8)], np.uint8)
    return np.tile(np.repeat(bits * 200 + 20, 8)[None, :, None], (64, 1, 3))


def numbers(pictures: np.ndarray) -> list[int]:
    """The numbers that pictures [V, 64, 64, 3] show."""
    bars = pictures.mean((1, 3)).reshape(len(pictures), 8, 8)[:, :, 2:-2].mean(2)
    return ((bars > 120) * (1 << np.arange(8))).sum(1).tolist()


def write_numbered(
    path: Path,
    video: str = "libx264",
    audio: str = "aac",
    container: str | None = None,
    options: dict[str, str] | None = None,
    video_options: dict[str, str] | None = None,
    shown_at: list[int] | None = None,
) -> Path:
    """Write 10 s at 24 fps, or pictures at the times `shown_at` (in 1/24 s)."""
    times = shown_at or list(range(PICTURES))
    with av.open(str(path), "w", format=container, options=options or {}) as file:
        pictures = file.add_stream(video, rate=FPS, width=64, height=64, options=video_options or {})
        assert isinstance(pictures, VideoStream)
        pictures.pix_fmt = "yuv420p"
        pictures.codec_context.gop_size = 24
        sound = file.add_stream(audio, rate=RATE)
        assert isinstance(sound, AudioStream)
        sound.layout = "mono"
        for second in range(0, len(NOISE), RATE):
            part = av.AudioFrame.from_ndarray(NOISE[None, second : second + RATE], "flt", "mono")
            part.sample_rate, part.pts, part.time_base = RATE, second, Fraction(1, RATE)
            file.mux(sound.encode(part))
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number), "rgb24")
            frame.pts, frame.time_base = time, Fraction(1, FPS)
            file.mux(pictures.encode(frame))
        file.mux(sound.encode(None))
        file.mux(pictures.encode(None))
    return path


def lag_ms(heard: np.ndarray, start: float, rate: int) -> float:
    """How much later than in NOISE from `start` s on the sound in `heard`, at `rate`, is."""
    step = RATE // rate
    reference = NOISE[round(start * RATE) :].reshape(-1, step).mean(1)[: len(heard)]
    size = 1 << (2 * len(heard)).bit_length()
    match = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(reference, size)), size)
    place = int(np.argmax(match))
    return (place if place < size // 2 else place - size) / rate * 1000
