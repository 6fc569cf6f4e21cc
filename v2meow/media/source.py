"""Opening a file that nobody vouches for: what is refused, which streams count, where its clock starts.

Everything here trusts no header: sizes are checked before a decoder sees them, lengths against the
bytes that are really there. It runs in the bounded child process and knows nothing of that process.

The clock of a file starts with its first picture (its first sample where there is no picture).
All times in this package are seconds on that clock.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import dropwhile
from pathlib import Path
from typing import Any, Literal

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from v2meow.config import MediaConfig

# Playlists (hls, dash, concat), image sequences and network formats are left out: they open other files.
_CONTAINERS = "mov,mp4,matroska,webm,avi,gif,ogg,mpegts,mpeg,flv,asf,wav,mp3,flac,aac"
_SAMPLE_RATES = range(4_000, 384_001)
_MAX_THREADS = 4  # each keeps pictures of its own, which count against the memory limit
_THREADED_PIXELS = 1 << 17  # smaller pictures are decoded sooner than they are handed from thread to thread


class MediaError(ValueError):
    """A file that cannot be used. One line: `path: reason`."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, " ".join(reason.split())
        super().__init__(f"{path}: {self.reason}")

    def __reduce__(self) -> tuple[type["MediaError"], tuple[Path, str]]:
        return MediaError, (self.path, self.reason)  # it crosses from process to process


@dataclass(frozen=True)
class Source:
    """An open file and the streams chosen from it."""

    path: Path
    limits: MediaConfig
    container: InputContainer
    video: VideoStream | None
    audio: AudioStream | None

    def need_video(self) -> VideoStream:
        if self.video is None:
            raise MediaError(self.path, "no video stream")
        return self.video

    def need_audio(self) -> AudioStream:
        """The soundtrack; MediaError without one, or when its sample rate cannot be true."""
        if self.audio is None:
            raise MediaError(self.path, "no audio stream")
        rate = self.audio.codec_context.sample_rate
        if rate not in _SAMPLE_RATES:
            bounds = f"{_SAMPLE_RATES[0]}…{_SAMPLE_RATES[-1]} Hz"
            raise MediaError(self.path, f"the soundtrack's sample rate {rate} Hz is outside {bounds}")
        return self.audio

    @property
    def zero(self) -> float:
        """Where the clock starts, in the container's own time."""
        return in_seconds(self._clock.start_time or 0, self._clock.time_base)

    @property
    def seekable(self) -> bool:
        """Not without timestamps, and not a GIF: there each picture is drawn over the one before."""
        return self._clock.start_time is not None and self.container.format.name != "gif"

    @property
    def tells_when_shown(self) -> bool:
        """AVI stores decoding times only, which differ where pictures are reordered."""
        return self.container.format.name != "avi" or not (self.video and self.video.codec_context.has_b_frames)

    @property
    def _clock(self) -> VideoStream | AudioStream:
        return self.video or self.need_audio()

    def seek(self, time: float) -> None:
        """Move the container to a keyframe about `time`, before it where the index is right."""
        assert self._clock.time_base is not None
        self.container.seek(round((time + self.zero) / self._clock.time_base), stream=self._clock)

    def seconds(self, stream: Stream) -> float:
        """Length of `stream`; MediaError when it is longer than `limits.max_seconds`."""
        is_mp4 = self.container.format.name.startswith("mov,")
        seconds = self._declared_seconds(stream) if is_mp4 else self._measured_seconds(stream)
        if seconds > self.limits.max_seconds:
            reason = f"{stream.type} of {seconds:.0f} s is longer than {self.limits.max_seconds:g} s"
            raise MediaError(self.path, reason)
        return seconds

    def _declared_seconds(self, stream: Stream) -> float:
        """What MP4's index says, but no more than lies inside the file: a truncated file declares its old length."""
        end = self.path.stat().st_size
        index = stream.index_entries
        if len(index) > 0 and index[-1].pos >= end:
            missing = next(entry.timestamp for entry in index if entry.pos >= end)
            return max(0.0, in_seconds(missing - (stream.start_time or 0), stream.time_base))
        return max(0.0, in_seconds(stream.duration or 0, stream.time_base))

    def _measured_seconds(self, stream: Stream) -> float:
        """Read every packet, decode none: Matroska declares the longest stream's length only, MPEG an estimate."""
        with open_source(self.path, self.limits) as fresh:
            same = fresh.container.streams[stream.index]
            found = (
                (packet.dts if packet.pts is None else packet.pts, packet.duration) for packet in packets(fresh, same)
            )
            ends = [stamp + (duration or 0) for stamp, duration in found if stamp is not None]
        return max(0.0, in_seconds(max(ends) - (stream.start_time or 0), stream.time_base)) if ends else 0.0


@contextmanager
def open_source(path: Path, limits: MediaConfig) -> Iterator[Source]:
    """Open the file at `path`, and nothing that it may point at. MediaError when it is no video or too large."""
    if path.stat().st_size == 0:
        raise MediaError(path, "not a video: the file is empty")
    options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file", "max_pixels": str(limits.max_pixels)}
    try:
        container = av.open(str(path), options=options, metadata_errors="replace")
    except MemoryError:
        raise
    except FFmpegError as error:
        raise MediaError(path, f"not a video: {error.strerror}") from error
    with container:
        video, audio = _chosen(container, "video"), _chosen(container, "audio")
        for stream in (video, audio):
            if stream is not None:
                stream.codec_context.thread_count = min(_MAX_THREADS, os.cpu_count() or 1)
        if video is not None:
            _bound_pixels(path, video, limits.max_pixels)
        yield Source(path, limits, container, video, audio)


def _chosen(container: InputContainer, kind: Literal["video", "audio"]) -> Any:
    """The stream that a player starts with: the first flagged as default, else FFmpeg's best. Cover art is none."""
    playable = [
        stream
        for stream in container.streams
        if stream.type == kind and stream.codec_context and not stream.disposition & Disposition.attached_pic
    ]
    flagged = [stream for stream in playable if stream.disposition & Disposition.default]
    best = container.streams.best(kind)
    return next(iter(flagged), best if best in playable else next(iter(playable), None))


def _bound_pixels(path: Path, video: VideoStream, max_pixels: int) -> None:
    """Refuse what the header declares too large, and what the decoder finds too large later."""
    width, height = video.codec_context.width, video.codec_context.height
    if width * height > max_pixels:
        raise MediaError(path, f"picture {width}x{height} is larger than {max_pixels} pixels")
    video.codec_context.options = {"max_pixels": str(max_pixels)}
    if 0 < width * height < _THREADED_PIXELS:
        video.codec_context.thread_count = 1
    video.codec_context.thread_type = "AUTO"


def packets(source: Source, stream: Stream) -> Iterator[Packet]:
    """Packets from where the container stands. A damaged end is an end: what lies before it is kept."""
    try:
        yield from source.container.demux(stream)
    except MemoryError:
        raise
    except (FFmpegError, IndexError):  # the latter where streams appear after the header: PyAV trips at the end
        return


def decoded(source: Source, stream: Stream, after_seek: bool = False) -> Iterator[Any]:
    """Frames from where the container stands; damaged packets are passed over.

    After a seek, packets before the first keyframe are dropped: MPEG-TS lands anywhere,
    and some decoders would invent a grey picture to start from.
    """
    found = packets(source, stream)
    for packet in dropwhile(lambda packet: not packet.is_keyframe, found) if after_seek else found:
        try:
            frames = packet.decode()
        except MemoryError:
            raise
        except FFmpegError:
            continue
        yield from frames


def in_seconds(ticks: int, time_base: Fraction | None) -> float:
    """The float next to `ticks * time_base`: asked for with every picture, and fractions are slow to multiply."""
    return ticks * time_base.numerator / time_base.denominator if time_base else 0.0
