"""What a file holds, as far as it can be known by decoding one picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from v2meow.config import MediaConfig
from v2meow.media.source import MediaError, Source, decoded, in_seconds, open_source

_RATE_ROUNDING = 0.02  # 24 frames a second beside 23.976, or times in milliseconds


@dataclass(frozen=True)
class AudioProbe:
    """The soundtrack: the track flagged as default, else FFmpeg's best. `sample_rate` in Hz."""

    codec: str
    sample_rate: int
    channels: int
    seconds: float


@dataclass(frozen=True)
class Probe:
    """A video. `seconds` is what is on screen, however long the soundtrack goes on.

    `fps` is the average; `width` and `height` are pixels after rotation; `rotation` is what brings
    the stored picture upright, in degrees counter-clockwise (0, 90, 180 or 270); `keyframe_interval`
    is the mean in seconds, None where the container has no index. `variable_fps` says that pictures do not
    come at equal distances, as far as the first packets tell.
    """

    seconds: float
    fps: float
    width: int
    height: int
    rotation: int
    video_codec: str
    keyframe_interval: float | None
    audio: AudioProbe | None
    variable_fps: bool = False

    @staticmethod
    def from_json(values: dict[str, Any]) -> "Probe":
        audio = values.pop("audio")
        return Probe(**values, audio=AudioProbe(**audio) if audio else None)


def probe(path: Path, limits: MediaConfig) -> Probe:
    """Describe a file; MediaError when it cannot be used as a video."""
    with open_source(path, limits) as source:
        video = source.need_video()
        seconds = source.seconds(video)
        audio = _probe_audio(source)
        frame = next(decoded(source, video), None)
        if frame is None:
            raise MediaError(path, "no frames could be decoded")
        starts = [time for time in keyframes(source) if time < seconds]
        rotation = upright_rotation(frame)
        width, height = (frame.width, frame.height) if rotation % 180 == 0 else (frame.height, frame.width)
        return Probe(
            seconds=seconds,
            fps=frame_rate(source),
            width=width,
            height=height,
            rotation=rotation,
            video_codec=video.codec_context.codec.canonical_name,
            keyframe_interval=seconds / len(starts) if starts else None,
            audio=audio,
            variable_fps=_is_variable(video),
        )


def comment(path: Path, limits: MediaConfig) -> str:
    """What the file, or its sound, says of itself where players look for a comment; "" where it says nothing."""
    with open_source(path, limits) as source:
        said = source.container.metadata | (source.audio.metadata if source.audio else {})
        return said.get("comment", "")


def _is_variable(video: VideoStream) -> bool:
    """The rate by which all times are multiples of a picture's, and the average one, differ where pictures do."""
    exact, average = video.base_rate, video.average_rate
    return bool(exact and average and abs(float(exact / average) - 1) > _RATE_ROUNDING)


def _probe_audio(source: Source) -> AudioProbe | None:
    if source.audio is None:
        return None
    audio = source.need_audio()
    context = audio.codec_context
    return AudioProbe(context.codec.canonical_name, context.sample_rate, context.channels, source.seconds(audio))


def frame_rate(source: Source) -> float:
    """Average frames a second; 25 where the file does not tell."""
    video = source.need_video()
    return float(video.average_rate or video.guessed_rate or 25)


def keyframes(source: Source) -> list[float]:
    """Times of the pictures that decoding can start at, sorted; empty where the container has no index.

    Leaves the container at its start.
    """
    video = source.need_video()
    if not source.seekable:
        return []
    try:
        source.seek(0.0)  # makes Matroska read its index
    except FFmpegError:
        return []
    starts = [entry.timestamp for entry in video.index_entries if entry.is_keyframe]
    return sorted(in_seconds(ticks, video.time_base) - source.zero for ticks in starts)


def upright_rotation(frame: VideoFrame) -> int:
    """Degrees counter-clockwise, in quarter turns, that bring a stored picture upright."""
    return round(frame.rotation / 90) * 90 % 360


def upright(picture: np.ndarray, frame: VideoFrame) -> np.ndarray:
    """`picture` [H, W, 3], made from `frame`, turned upright."""
    turns = upright_rotation(frame) // 90
    return np.rot90(picture, turns) if turns else picture
