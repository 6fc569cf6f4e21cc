"""Writing sound and video: WAV, the ordinary MP4 of a synthetic catalogue, and music put under a video.

Files are written where they are told to be; who needs them to appear whole wraps them in `atomic_file`.
"""

import heapq
import struct
import wave
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.codec.context import Flags
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from v2meow.files import atomic_file

MP4_OPTIONS = {"movflags": "+faststart", "fflags": "+bitexact"}  # bitexact: no dates, no versions
SOUND_RATE = 48_000  # of what players are given: AAC and Opus
_AUDIO_BITS = 160_000


def write_wav(path: Path, waveform: np.ndarray, rate: int, comment: str = "") -> None:
    """Write mono sound, float32 [T] in [-1, 1], as 16 bit PCM."""
    assert waveform.ndim == 1, waveform.shape
    with atomic_file(path) as temporary:
        temporary.write_bytes(wav_header(len(waveform), rate, comment) + pcm(waveform))


def pcm(waveform: np.ndarray) -> bytes:
    """Sound, float32 [T] in [-1, 1], as 16 bit little-endian samples; louder is clipped."""
    return np.round(np.clip(waveform, -1, 1) * 32767).astype("<i2").tobytes()


def wav_header(samples: int, rate: int, comment: str = "") -> bytes:
    """What comes before so many samples of mono 16 bit PCM in a WAV file; `comment` is what players call so."""
    text = comment.encode() + b"\0" * (2 - len(comment.encode()) % 2)  # ends with a zero, and chunks have even lengths
    info = b"INFO" + b"ICMT" + struct.pack("<I", len(text)) + text if comment else b""
    notes = b"LIST" + struct.pack("<I", len(info)) + info if comment else b""
    layout = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16)
    data = b"data" + struct.pack("<I", 2 * samples)
    return b"RIFF" + struct.pack("<I", 4 + len(layout + notes + data) + 2 * samples) + b"WAVE" + layout + notes + data


def read_wav(path: Path) -> tuple[np.ndarray, int]:
    """(float32 [T], rate) of a file that `write_wav` wrote."""
    with wave.open(str(path), "rb") as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2), file.getparams()
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        return samples.astype(np.float32) / 32767, file.getframerate()


def write_video(path: Path, frames: Iterable[np.ndarray], fps: float, waveform: np.ndarray, rate: int) -> None:
    """Write pictures uint8 [H, W, 3] (H and W even) and sound float32 [T] as H.264 and AAC in MP4.

    Equal input gives equal bytes: one thread, no dates.
    """
    pictures = iter(frames)
    first = next(pictures)
    height, width = first.shape[:2]
    interval = 1 / Fraction(fps).limit_denominator(1001)
    with atomic_file(path) as temporary, av.open(str(temporary), "w", format="mp4", options=MP4_OPTIONS) as sink:
        video = add_h264(sink, width, height, 1 / interval, interval, threads=1)
        audio = add_aac(sink)
        timed = enumerate(chain([first], pictures))
        interleave(sink, encoded_pictures(video, timed), encoded_sound(audio, waveform, rate))


def add_h264(
    sink: OutputContainer, width: int, height: int, fps: Fraction, time_base: Fraction, threads: int
) -> VideoStream:
    """A stream of H.264 that every player shows (4:2:0, 8 bits)."""
    options = {"preset": "veryfast", "threads": str(threads)}
    stream = sink.add_stream("libx264", rate=fps, width=width, height=height, time_base=time_base, options=options)
    stream.pix_fmt = "yuv420p"
    stream.codec_context.flags |= Flags.bitexact
    return stream


def add_aac(sink: OutputContainer) -> AudioStream:
    """A stream of mono AAC at 48 kHz."""
    stream = sink.add_stream("aac", rate=SOUND_RATE, bit_rate=_AUDIO_BITS)
    stream.layout = "mono"
    stream.codec_context.flags |= Flags.bitexact
    return stream


def encoded_pictures(stream: VideoStream, timed: Iterable[tuple[int, np.ndarray]]) -> Iterator[Packet]:
    """Packets of (time in ticks of the codec's time base, uint8 [H, W, 3])."""
    time_base = stream.codec_context.time_base
    for ticks, picture in timed:
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
        frame.pts, frame.time_base = ticks, time_base
        yield from stream.encode(frame)
    yield from stream.encode(None)


def encoded_sound(stream: AudioStream, waveform: np.ndarray, rate: int) -> Iterator[Packet]:
    """Packets of float32 [T] at `rate`, a second at a time; the encoder resamples."""
    for place in range(0, len(waveform), rate):
        yield from stream.encode(sound_frame(waveform[place : place + rate], rate, place))
    yield from stream.encode(None)


def sound_frame(samples: np.ndarray, rate: int, place: int) -> av.AudioFrame:
    """Samples float32 [n] that begin `place` samples after the beginning."""
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None], np.float32), "flt", "mono")
    frame.sample_rate, frame.pts, frame.time_base = rate, place, Fraction(1, rate)
    return frame


def interleave(sink: OutputContainer, *streams: Iterator[Packet]) -> None:
    """Write packets of several streams in order of time, so that a player never has to look far."""
    for packet in heapq.merge(*streams, key=decoding_time):
        sink.mux(packet)


def decoding_time(packet: Packet) -> Fraction:
    """Seconds."""
    return (packet.dts or 0) * packet.time_base


class Outlet:
    """A file that is written to and never sought in, for containers that leave as they are made."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, part: bytes) -> int:
        self._parts.append(bytes(part))
        return len(part)

    def taken(self) -> bytes:
        """What was written since this was asked last."""
        parts, self._parts = self._parts, []
        return b"".join(parts)
