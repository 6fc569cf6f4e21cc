"""Pictures and sound by time, across containers; written here, so that the truth is known."""

import csv
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numbered import FPS, PICTURES, lag_ms, numbers, write_numbered

from v2meow.config import MediaConfig
from v2meow.media import MediaError, Reader, read, seek_plan, source
from v2meow.media.probe import upright
from v2meow.media.source import decoded, in_seconds, open_source, packets

# Each names the way of storing times that it stands for.
CONTAINERS: dict[str, dict[str, Any]] = {
    "plain.mp4": {},
    "opengop.mp4": {"video_options": {"x264-params": "open-gop=1:bframes=3"}},
    "fragmented.mp4": {"options": {"movflags": "frag_keyframe+empty_moov+delay_moov"}},
    "hevc.mp4": {"video": "libx265", "video_options": {"x265-params": "log-level=none"}},
    "cues.mkv": {},
    "no_index.mkv": {"options": {"live": "1"}},
    "opus.webm": {"video": "libvpx-vp9", "audio": "libopus", "video_options": {"cpu-used": "8"}},
    "late_start.ts": {"container": "mpegts"},
    "no_keyframe_index.ts": {"container": "mpegts", "video": "mpeg4"},
    "milliseconds.flv": {},
}


@pytest.fixture(scope="module", params=CONTAINERS)
def numbered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_numbered(tmp_path_factory.mktemp("numbered") / request.param, **CONTAINERS[request.param])


def test_every_picture_is_found_at_its_time(numbered: Path, reader: Reader):
    """Off by one: rounding of timestamps, reordered pictures or a late start shift pictures against music."""
    assert reader.probe(numbered).seconds == pytest.approx(PICTURES / FPS, abs=0.01)
    assert numbers(reader.frames(numbered, FPS, 64, seconds=PICTURES / FPS)) == list(range(PICTURES))


@pytest.mark.parametrize("start", [0.51, 3.02, 7.9, 9.7])
def test_a_part_shows_what_the_whole_shows(numbered: Path, reader: Reader, start: float):
    """A seek that lands late, or on a picture that needs an earlier one, gives another picture."""
    expected = [min(int((start + i / 8) * FPS + 0.02), PICTURES - 1) for i in range(8)]
    assert numbers(reader.frames(numbered, 8, 64, start=start, seconds=1.0)) == expected


@pytest.mark.parametrize("rate", [1, 5, 24])
def test_stretches_show_what_each_of_them_shows_alone(numbered: Path, reader: Reader, rate: int):
    """They overlap, touch, leave something out, begin on no picture, and go beyond both ends."""
    parts = [(-0.5, 2.0), (0.9, 1.3), (2.2, 2.0), (4.2, 1.01), (7.03, 1.0), (7.03, 0.2), (9.5, 3.0)]
    alone = [reader.frames(numbered, rate, 48, *part) for part in parts]
    together = list(reader.stretches(numbered, rate, 48, parts))
    assert [one.shape for one in together] == [one.shape for one in alone]
    assert all((one == other).all() for one, other in zip(together, alone, strict=True))


def test_stretches_of_two_kinds_are_read_by_turns(numbered: Path, reader: Reader):
    """Extractors differ in rate and size, and a clip is wanted of each before the next."""
    parts = [(start, 2.0) for start in (0.0, 2.0, 4.0)]
    small, whole = reader.stretches(numbered, 5, 16, parts), reader.stretches(numbered, 3, 32, parts, whole=True)
    for part, one, other in zip(parts, small, whole, strict=True):
        assert (one == reader.frames(numbered, 5, 16, *part)).all()
        assert (other == reader.frames(numbered, 3, 32, *part, whole=True)).all()


@pytest.mark.parametrize(("start", "seconds"), [(0.0, 10.0), (0.5, 1.0), (3.3, 2.0), (8.0, 1.5)])
def test_sound_is_aligned_with_the_pictures(numbered: Path, reader: Reader, start: float, seconds: float):
    """Encoder priming, stream start times and seeks each shift sound by 20 ms and more where they are ignored."""
    heard = reader.waveform(numbered, 16_000, start, seconds)
    assert heard.shape == (round(seconds * 16_000),)
    assert abs(lag_ms(heard, start, 16_000)) <= 2


@pytest.mark.parametrize("rate", [1, 3, 24])
def test_seeking_and_scanning_give_identical_pictures(
    numbered: Path, limits: MediaConfig, monkeypatch: pytest.MonkeyPatch, rate: int
):
    """The fast way must not be another way."""
    found = {}
    for plan in ("seek", "scan"):
        monkeypatch.setattr(read, "seek_plan", lambda *_, plan=plan: plan)
        found[plan] = read.frames(numbered, limits, rate, 32)
    assert np.array_equal(found["seek"], found["scan"])


def test_one_thread_decodes_what_several_do(numbered: Path, limits: MediaConfig, monkeypatch: pytest.MonkeyPatch):
    """Small pictures are decoded by one, large ones by several."""
    alone = read.frames(numbered, limits, FPS, 32)
    monkeypatch.setattr(source, "_THREADED_PIXELS", 0)
    assert np.array_equal(alone, read.frames(numbered, limits, FPS, 32))


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("shape", [(32, 48), (90, 161), (400, 64)])
def test_one_thread_scales_as_several_do(tmp_path: Path, limits: MediaConfig, shape: tuple[int, int], smooth: bool):
    """A picture's parts are scaled apart by several, and must not show it."""
    video = write_numbered(tmp_path / "a.mp4", shown_at=[77])
    with open_source(video, limits) as file:
        (frame,) = decoded(file, file.need_video())
    kind = "AREA" if smooth and shape == (32, 48) else "BICUBIC"
    several = VideoReformatter().reformat(frame, shape[1], shape[0], "rgb24", interpolation=kind, threads=4)
    alone = read._picture(VideoReformatter(), frame, *shape, smooth=smooth)
    assert np.array_equal(alone, upright(several.to_ndarray(), frame))


def test_every_whole_picture_before_a_cut_is_kept(tmp_path: Path, limits: MediaConfig):
    """Threads that decode ahead lose two and more pictures when a damaged one ends them."""
    video = write_numbered(tmp_path / "a.mp4", options={"movflags": "+faststart"})
    with open_source(video, limits) as file:
        cut = list(packets(file, file.need_video()))[100]
    assert cut.pos is not None
    video.write_bytes(video.read_bytes()[: cut.pos + cut.size // 2])
    with open_source(video, limits) as file:
        assert len(list(decoded(file, file.need_video()))) == 100


def test_ticks_are_in_seconds_what_exact_fractions_are():
    """Rounded twice, a time can fall before that of the picture that it is."""
    random = np.random.default_rng(0)
    for ticks, top, bottom in random.integers((-(1 << 40), 1, 1), (1 << 40, 5_000, 200_000), (500, 3)).tolist():
        assert in_seconds(ticks, Fraction(top, bottom)) == float(ticks * Fraction(top, bottom))
    assert in_seconds(5, None) == 0.0


def test_reordered_avi_is_read_in_order(tmp_path: Path, reader: Reader):
    """AVI stores decoding times: taken for display times, they show pictures in the wrong order."""
    shown = numbers(reader.frames(write_numbered(tmp_path / "a.avi", audio="libmp3lame"), FPS, 64))
    assert shown == sorted(shown)
    assert len(set(shown)) >= PICTURES - 2  # FFmpeg's AVI writer starts late by the two pictures it waits for


def test_variable_rate_is_read_by_timestamp(tmp_path: Path, reader: Reader):
    """Counting pictures instead of reading their times drifts where the rate varies."""
    video = write_numbered(tmp_path / "a.mp4", shown_at=[0, 1, 2, 3, 10, 20, 21, 40])
    assert numbers(reader.frames(video, FPS, 64))[:22] == [0, 1, 2, *[3] * 7, *[4] * 10, 5, 6]


@pytest.mark.parametrize(
    ("shape", "pixel", "shown"),
    [
        ((96, 160), None, (48, 80)),  # made smaller until the shorter side has 48
        ((160, 96), None, (80, 48)),
        ((32, 48), None, (32, 48)),  # never made larger
        ((96, 120), (4, 3), (48, 80)),  # pixels that are wider than high, as on old discs
        ((96, 120), (3, 4), (64, 60)),
        ((96, 160), (30_000, 1), (48, 80)),  # a damaged header
    ],
)
def test_whole_pictures_keep_their_aspect(tmp_path: Path, reader: Reader, shape, pixel, shown):
    """Squeezed, a circle is an ellipse to a model that has seen none, and motion slower one way than the other."""
    video = _write_disc(tmp_path / "a.mkv", shape, Fraction(*pixel or (1, 1)))
    size = 60 if shown == (64, 60) else 48
    (picture,) = reader.frames(video, 1, size, seconds=1.0, whole=True)
    assert picture.shape == (*shown, 3) and picture.dtype == np.uint8
    centre = [np.average(np.arange(side), weights=picture.mean(2).sum(1 - axis)) for axis, side in enumerate(shown)]
    assert centre == pytest.approx([shown[0] / 4, shown[1] * 3 / 4], abs=1.0)


def test_whole_pictures_of_a_rotated_video_are_upright(media_folder: Path, reader: Reader):
    """480 x 854 as it is shown, and not as it is stored."""
    path = media_folder / "silent_videos" / "coffee_portrait_rot90.mp4"
    (table,) = reader.frames(path, 1, 120, seconds=1.0, whole=True)
    assert table.shape == (214, 120, 3)
    assert table[:66].mean() > table[107:174].mean() + 50  # a white wall above, a dark kettle below


def test_times_outside_the_video_show_its_ends(tmp_path: Path, reader: Reader):
    """A clip that ends with the video must not come back shorter; a still picture is a video too."""
    video = write_numbered(tmp_path / "a.mp4", shown_at=[0])
    assert numbers(reader.frames(video, 10, 64, start=5.0, seconds=0.3)) == [0, 0, 0]
    assert reader.frames(video, 1, 64).shape == (1, 64, 64, 3)
    assert reader.waveform(video, 16_000, start=9.5, seconds=1.0)[8_200:].any() == np.False_


def test_seek_plan_takes_the_cheaper_way():
    """The wrong way costs five times as much: seeking with rare keyframes, scanning with frequent ones."""
    every_second = [float(second) for second in range(60)]
    assert seek_plan(every_second, keyframes=every_second) == "seek"
    assert seek_plan(every_second, keyframes=[0.0]) == "scan"
    assert seek_plan([i / 10 for i in range(600)], keyframes=every_second) == "scan"
    assert seek_plan([1.0, 50.0], keyframes=[0.0, 8.0, 49.0]) == "seek"
    assert seek_plan(every_second, keyframes=[]) == "scan"


def test_real_videos_agree_with_their_manifest(media_folder: Path, reader: Reader):
    """Header fields that lie: length, rate and size are what a player would show."""
    for row in _rows(media_folder, "music_videos", "silent_videos"):
        about = reader.probe(media_folder / row["path"])
        sideways = about.rotation % 180 != 0
        size = (about.height, about.width) if sideways else (about.width, about.height)
        shape = int(row["width"]) / int(row["height"])  # some files were made smaller than their manifest says
        assert size[0] / size[1] == pytest.approx(shape, rel=0.02), row["path"]
        assert about.fps == pytest.approx(float(row["fps"]), rel=0.01), row["path"]
        assert about.rotation == int(row["rotation"] or 0) % 360, row["path"]
        assert about.video_codec == row["video_codec"]
        if row["path"] != "silent_videos/nasa_speech_8k.mp4":  # its subtitles go on for 3.5 s after the picture
            assert about.seconds == pytest.approx(float(row["duration_s"]), abs=0.25), row["path"]
        assert (about.audio.codec if about.audio else "") == row["audio_codec"].split("+")[0], row["path"]


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1, 25])
def test_real_videos_give_pictures_at_any_rate(media_folder: Path, reader: Reader, rate: int):
    """An odd size, pixel format, codec or GIF palette that one path cannot take."""
    for row in _rows(media_folder, "music_videos", "silent_videos"):
        path = media_folder / row["path"]
        pictures = reader.frames(path, rate, 48)
        assert pictures.shape == (max(1, round(reader.probe(path).seconds * rate)), 48, 48, 3), path
        assert pictures.std() > 5, path


def test_a_rotated_video_is_turned_upright(media_folder: Path, reader: Reader):
    """A phone's portrait video is stored sideways; turned the wrong way it stands on its head."""
    path = media_folder / "silent_videos" / "coffee_portrait_rot90.mp4"
    about = reader.probe(path)
    assert (about.width, about.height, about.rotation) == (480, 854, 270)
    table = reader.frames(path, 1, 64, seconds=1.0)[0].mean(2)
    assert table[:20].mean() > table[32:52].mean() + 50  # a white wall above, a dark kettle below


def test_surround_and_opposite_channels_mix_to_mono(media_folder: Path, reader: Reader):
    """A sum instead of an average clips; channels that cancel out are silence in mono."""
    surround = reader.waveform(media_folder / "hostile" / "surround_5_1.mp4", 16_000)
    assert 0.001 < np.abs(surround).max() <= 1
    assert not reader.waveform(media_folder / "hostile" / "antiphase_stereo.mov", 16_000).any()


def test_a_missing_soundtrack_is_said_so(media_folder: Path, reader: Reader):
    with pytest.raises(MediaError, match=r"cars_12fps\.gif: no audio stream$"):
        reader.waveform(media_folder / "silent_videos" / "cars_12fps.gif", 16_000)


def _write_disc(path: Path, shape: tuple[int, int], pixel: Fraction) -> Path:
    """A second of a white blob on black, a quarter from the top and from the right."""
    y, x = (np.arange(side) / side for side in shape)
    blob = np.exp(-(((y[:, None] - 1 / 4) ** 2 + (x - 3 / 4) ** 2) / 0.003))
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=5, width=shape[1], height=shape[0])
        assert isinstance(stream, VideoStream)
        stream.pix_fmt, stream.codec_context.sample_aspect_ratio = "yuv420p", pixel
        for _ in range(5):
            frame = np.repeat((blob * 255).astype(np.uint8)[..., None], 3, axis=2)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        file.mux(stream.encode(None))
    return path


def _rows(folder: Path, *parts: str) -> list[dict[str, str]]:
    with (folder / "MANIFEST.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["path"].split("/")[0] in parts]
