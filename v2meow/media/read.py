"""Pictures and sound of a file as arrays, by time. Runs in the bounded child process."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby, pairwise
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.error import FFmpegError
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from v2meow.config import MediaConfig
from v2meow.media.probe import frame_rate, keyframes, upright, upright_rotation
from v2meow.media.source import MediaError, Source, decoded, in_seconds, open_source

_ROUNDING_S = 0.0006  # Matroska and FLV round times to a millisecond: a picture this late is on time
_SEEK_COST_S = 0.5  # a seek costs about as much as decoding this much video
_STEPS_BACK_S = (0.0, 2.0, 8.0, 32.0)  # where to look for a keyframe before a time
_AUDIO_RUN_UP_S = 0.2  # decoders of sound need a moment after a seek
_LONGEST_PIXEL = 4.0  # sides of pixels that differ by more are a damaged header
_SAME_S = 1e-6  # times that differ by less are one
_GAP_S = 0.02  # timestamps of sound that jump by less are rounding, not silence

Timed = tuple[float, Any]  # with a VideoFrame or AudioFrame


def frames(
    path: Path,
    limits: MediaConfig,
    rate: float,
    size: int,
    start: float = 0.0,
    seconds: float | None = None,
    whole: bool = False,
) -> np.ndarray:
    """Pictures on screen at start + i / rate, uint8 [V, H, W, 3], RGB, upright.

    They are squeezed to a square of `size` pixels; `whole` ones keep their aspect, and where their shorter
    side is longer than `size` they are made smaller until it is not. V = round(seconds * rate), at least 1;
    `seconds` None reads to the end. Before the first picture the first is shown, after the last the last.
    """
    with open_source(path, limits) as source:
        video = source.need_video()
        length = source.seconds(video) - start if seconds is None else seconds
        times = _times(start, length, rate)
        pictures = np.empty((0, 0, 0, 3), np.uint8)
        for begin, end, picture in _pictures(source, times, size, whole=whole):
            if not len(pictures):
                pictures = np.empty((len(times), *picture.shape), np.uint8)
            pictures[begin:end] = picture
        return pictures


def stretches(
    path: Path,
    limits: MediaConfig,
    rate: float,
    size: int,
    parts: Sequence[tuple[float, float]],
    whole: bool = False,
) -> Iterator[np.ndarray]:
    """The `frames` of each (start, seconds) in `parts`, which begin in order and may overlap, one after the other.

    Every picture is decoded once, and only those that a part still needs are held in memory.
    """
    each = [_times(start, seconds, rate) for start, seconds in parts]
    times: list[float] = []
    for time in sorted(chain.from_iterable(each)):
        if not times or time - times[-1] > _SAME_S:  # the same time, counted from where another part begins
            times.append(time)
    kept: dict[int, np.ndarray] = {}
    with open_source(path, limits) as source:
        found, seen = _pictures(source, times, size, whole=whole), 0
        for wanted in each:
            places = [bisect_left(times, time - _SAME_S) for time in wanted]
            while seen <= places[-1]:
                begin, seen, picture = next(found)
                kept |= dict.fromkeys(range(begin, seen), picture)
            kept = {place: picture for place, picture in kept.items() if place >= places[0]}
            yield np.stack([kept[place] for place in places])


def _times(start: float, seconds: float, rate: float) -> list[float]:
    return [start + i / rate for i in range(max(1, round(seconds * rate)))]


def _pictures(
    source: Source, times: Sequence[float], size: int, *, whole: bool
) -> Iterator[tuple[int, int, np.ndarray]]:
    """(begin, end, picture [H, W, 3]), in order: what is on screen at times[begin:end]. MediaError for none."""
    video, scale, filled = source.need_video(), VideoReformatter(), 0
    shape = (size, size)
    for first, last in _runs(times, keyframes(source)):
        for begin, end, frame in _shown(_frames_from(source, video, times[first]), times, first, last):
            if whole and not filled:
                shape = _whole_shape(video, frame, size)
            yield begin, end, _picture(scale, frame, *shape, smooth=not whole)
            filled = end
    if filled < len(times):
        raise MediaError(source.path, "no frames could be decoded")


def seek_plan(times: Sequence[float], keyframes: Sequence[float]) -> Literal["seek", "scan"]:
    """The cheaper way to the pictures at `times` (sorted), in seconds of video to decode.

    "seek": from the keyframe before each time, once for times that share it.
    "scan": everything from the keyframe before the first time to the last time.
    """
    groups = _groups(times, keyframes)
    if len(groups) <= 1:
        return "scan"
    seek = sum(_SEEK_COST_S + times[last - 1] - keyframe for keyframe, _, last in groups)
    scan = _SEEK_COST_S + times[-1] - groups[0][0]
    return "seek" if seek < scan else "scan"


def _groups(times: Sequence[float], keyframes: Sequence[float]) -> list[tuple[float, int, int]]:
    """(keyframe, first, last) for each range of `times` that lie after the same keyframe."""
    if not keyframes:
        return []
    places = np.maximum(np.searchsorted(keyframes, times, side="right") - 1, 0)
    edges = [0, *(np.flatnonzero(np.diff(places)) + 1).tolist(), len(times)]
    return [(keyframes[places[first]], first, last) for first, last in pairwise(edges)]


def _runs(times: Sequence[float], keyframes: Sequence[float]) -> list[tuple[int, int]]:
    """Ranges of `times` to read in one go each."""
    if seek_plan(times, keyframes) == "scan":
        return [(0, len(times))]
    return [(first, last) for _, first, last in _groups(times, keyframes)]


def _frames_from(source: Source, stream: Stream, time: float) -> Iterator[Timed]:
    """Frames of `stream` in order, from one at or before `time` on.

    Where a seek lands is not trusted (indexes hold decoding times, open groups of pictures lose their
    first ones, sound may lie far from its picture): it counts only when its first frame is early
    enough. The start of the file is the last resort.
    """
    if source.seekable:
        for target in (max(0.0, time - back) for back in _STEPS_BACK_S):
            try:
                source.seek(target)
            except FFmpegError:
                break
            found = timed(source, stream, after_seek=True)
            first = next(found, None)
            if first is not None and first[0] <= time + _ROUNDING_S:
                yield from chain([first], found)
                return
    with open_source(source.path, source.limits) as fresh:
        yield from timed(fresh, fresh.container.streams[stream.index])


def timed(source: Source, stream: Stream, after_seek: bool = False) -> Iterator[Timed]:
    """Frames of `stream` in order with their times.

    Where the file does not tell them (AVI, damaged files), a picture follows the one before by the
    average interval. The first of them takes its decoding time, which is right for a keyframe only.
    """
    interval = 1 / frame_rate(source) if stream is source.video else 0.0
    time = None
    for frame in decoded(source, stream, after_seek):
        if frame.pts is not None and source.tells_when_shown:
            time = in_seconds(frame.pts, frame.time_base) - source.zero
        elif time is not None:
            time += interval
        else:
            time = 0.0 if frame.dts is None else in_seconds(frame.dts, frame.time_base) - source.zero
        yield time, frame


def _shown(
    pictures: Iterable[Timed], times: Sequence[float], first: int, last: int
) -> Iterator[tuple[int, int, VideoFrame]]:
    """(begin, end, picture) for each picture that is on screen at times[begin:end], within times[first:last]."""
    current = None
    for time, frame in pictures:
        if current is not None:
            end = bisect_left(times, time - _ROUNDING_S, first, last)
            if end > first:
                yield first, end, current
                first = end
            if first == last:
                return
        current = frame
    if current is not None:
        yield first, last, current


def _whole_shape(stream: VideoStream, frame: VideoFrame, size: int) -> tuple[int, int]:
    """(height, width) that `frame` is shown in, upright, its shorter side at most `size`."""
    aspect = float(stream.sample_aspect_ratio or 1)  # of a pixel: old television has pixels that are not square
    if not 1 / _LONGEST_PIXEL <= aspect <= _LONGEST_PIXEL:
        aspect = 1.0
    shown = (frame.height * max(1.0, 1 / aspect), frame.width * max(1.0, aspect))
    height, width = shown if upright_rotation(frame) % 180 == 0 else shown[::-1]
    shrunk = min(1.0, size / min(height, width))
    return max(1, round(height * shrunk)), max(1, round(width * shrunk))


def _picture(scale: VideoReformatter, frame: VideoFrame, height: int, width: int, smooth: bool) -> np.ndarray:
    """The whole of `frame` as [height, width, 3].

    `smooth`: by area where it shrinks, so that nothing flickers. Else bicubic, which keeps more of it for whoever
    scales the picture further.
    """
    area = smooth and frame.width * frame.height >= width * height
    if upright_rotation(frame) % 180 != 0:
        height, width = width, height
    interpolation = "AREA" if area else "BICUBIC"
    # One thread: there would be one a core, which are woken for every picture and count against the memory limit.
    scaled = scale.reformat(frame, width, height, "rgb24", interpolation=interpolation, threads=1)
    return upright(scaled.to_ndarray(), frame)


def waveform(
    path: Path, limits: MediaConfig, rate: int, start: float = 0.0, seconds: float | None = None
) -> np.ndarray:
    """The soundtrack as float32 [T] in [-1, 1], T = round(seconds * rate); None reads to the video's end.

    Channels are mixed to one by FFmpeg's standard weights, scaled so that they sum to 1 (stereo: the
    average). Silence stands where the soundtrack has none.
    """
    with open_source(path, limits) as source:
        audio = source.need_audio()
        clock = source.video or audio
        length = source.seconds(clock) - start if seconds is None else seconds
        samples = np.zeros(max(0, round(length * rate)), np.float32)
        heard = (frame for _, frame in _frames_from(source, audio, max(0.0, start - _AUDIO_RUN_UP_S)))
        for place, part in _placed(_mono(heard, rate), rate, source.zero + start):
            if place >= len(samples):
                break
            part = part[max(0, -place) : len(samples) - place]
            samples[max(0, place) : max(0, place) + len(part)] = part
        return np.clip(samples, -1, 1, out=samples)


def _mono(frames: Iterable[AudioFrame], rate: int) -> Iterator[AudioFrame]:
    """Frames as mono float at `rate`; a soundtrack may change its format on the way."""
    for _, alike in groupby(frames, key=lambda frame: (frame.format.name, frame.layout.name, frame.sample_rate)):
        resampler = av.AudioResampler("flt", "mono", rate, options={"rematrix_maxval": "1.0"})
        for frame in chain(alike, [None]):
            yield from filter(None, resampler.resample(frame))


def _placed(frames: Iterable[AudioFrame], rate: int, zero: float) -> Iterator[tuple[int, np.ndarray]]:
    """(position, samples [n]), position in samples after `zero`.

    Timestamps rounded to a millisecond would tear the wave if they were followed to the letter:
    only the first, and one that jumps, sets the position.
    """
    place = None
    for frame in frames:
        samples = frame.to_ndarray()[0]
        if frame.pts is not None:
            stamped = round((in_seconds(frame.pts, frame.time_base) - zero) * rate)
            place = stamped if place is None or abs(stamped - place) > _GAP_S * rate else place
        place = place or 0
        yield place, samples
        place += len(samples)
