"""Music under a video that came from outside. Runs in a bounded child process, for it reads that video.

The picture is copied packet by packet where MP4 can hold it, and encoded anew where it cannot.
"""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import dropwhile, pairwise
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.packet import Packet

from v2meow.config import MediaConfig
from v2meow.media.probe import Probe, probe, upright
from v2meow.media.read import timed
from v2meow.media.source import Source, open_source, packets
from v2meow.media.write import MP4_OPTIONS, add_aac, add_h264, encoded_pictures, encoded_sound, interleave

_MP4_CODECS = {"h264", "hevc", "av1", "vp9", "mpeg4"}
_TICKS = 90_000  # a second, where pictures are encoded anew: fine enough for any variable rate
_THREADS = 2


def mux(video: Path, limits: MediaConfig, waveform: np.ndarray, rate: int, out: Path, comment: str) -> None:
    """Write `video` to `out` as MP4 with `waveform`, float32 [T] at `rate`, as its only soundtrack.

    `comment` is what players call so. The sound starts with the first picture and is cut, or filled with silence, to
    the length of the video.
    """
    about = probe(video, limits)
    samples = round(about.seconds * rate)
    sound = np.pad(waveform[:samples], (0, max(0, samples - len(waveform))))
    with open_source(video, limits) as source, av.open(str(out), "w", format="mp4", options=MP4_OPTIONS) as sink:
        pictures = add_pictures(source, sink, about)
        audio = add_aac(sink)
        if comment:
            sink.metadata["comment"] = comment
        interleave(sink, pictures, encoded_sound(audio, sound, rate))


def add_pictures(source: Source, sink: OutputContainer, about: Probe) -> Iterator[Packet]:
    """Add a stream for the pictures of `source` to `sink`; its packets, moved so that the first is shown at 0."""
    copied = _can_be_copied(source.path, source.limits, about)
    return _copied(source, sink) if copied else _encoded(source, sink, about)


def _can_be_copied(video: Path, limits: MediaConfig, about: Probe) -> bool:
    """Whether MP4 holds the codec, and the packets tell when each is shown and, in rising order, decoded."""
    if about.video_codec not in _MP4_CODECS:
        return False
    with open_source(video, limits) as source:
        stamps = [(packet.pts, packet.dts) for packet in packets(source, source.need_video()) if packet.size]
        shown_when_told = source.tells_when_shown and all(shown is not None for shown, _ in stamps)
    decoded_at = list(dropwhile(lambda stamp: stamp is None, (decoded for _, decoded in stamps)))
    rising = all(a is not None and b is not None and a < b for a, b in pairwise(decoded_at))
    return shown_when_told and len(decoded_at) > 0 and rising


def _copied(source: Source, sink: OutputContainer) -> Iterator[Packet]:
    """Add a stream like the source's to `sink`; its packets, moved so that the first picture is at 0."""
    video = source.need_video()
    first = video.start_time or 0
    stream = sink.add_stream_from_template(video, opaque=True)
    if video.codec_context.codec.canonical_name == "hevc":
        stream.codec_context.codec_tag = "hvc1"  # Apple's players refuse FFmpeg's default, hev1

    def moved() -> Iterator[Packet]:
        for packet in _with_decoding_times(packets(source, video)):
            assert packet.pts is not None and packet.dts is not None  # _can_be_copied saw them
            packet.pts, packet.dts, packet.stream = packet.pts - first, packet.dts - first, stream
            yield packet

    return moved()


def _with_decoding_times(found: Iterable[Packet]) -> Iterator[Packet]:
    """Matroska leaves the first decoding times out where pictures are reordered: count back from the first known."""
    waiting: list[Packet] = []
    for packet in found:
        if packet.dts is None:
            waiting += [packet] if packet.size else []  # the end of a stream is an empty packet
            continue
        for back, early in enumerate(reversed(waiting), 1):
            early.dts = packet.dts - back * max(1, packet.duration or 0)
        yield from waiting
        waiting = []
        yield packet


def _encoded(source: Source, sink: OutputContainer, about: Probe) -> Iterator[Packet]:
    """Add a stream of H.264 to `sink`; the source's pictures encoded into it, upright, their times kept."""
    width, height = about.width + about.width % 2, about.height + about.height % 2
    fps = Fraction(about.fps).limit_denominator(1001)
    stream = add_h264(sink, width, height, fps, Fraction(1, _TICKS), _THREADS)
    return encoded_pictures(stream, _in_ticks(source))


def _in_ticks(source: Source) -> Iterator[tuple[int, np.ndarray]]:
    """(time, picture with even sides), times strictly rising: an encoder takes no other."""
    last = -1
    for time, frame in timed(source, source.need_video()):
        ticks = round(time * _TICKS) if last >= 0 else 0  # the first picture is shown from the start
        if ticks > last:
            picture = upright(frame.to_ndarray(format="rgb24"), frame)
            height, width = picture.shape[:2]
            yield ticks, np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            last = ticks
