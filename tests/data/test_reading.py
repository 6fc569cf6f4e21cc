"""Reading many files at once: in order, a few ahead, and one bad file is one failure."""

import threading
import time
from collections.abc import Generator

import numpy as np
import pytest
import tiny

from v2meow.data.reading import map_readers, read_media
from v2meow.media import MediaError, write_video

RATE = 16_000


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Two videos of 3 s: a ramp of grey and of sound in each, the second darker and quieter."""
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "data/raw").mkdir(parents=True)
    for video, gain in enumerate((1.0, 0.5)):
        pictures = (np.full((64, 64, 3), 8 * number * gain, np.uint8) for number in range(30))
        sound = gain * np.linspace(0, 0.6, 3 * RATE, dtype=np.float32) * np.sin(0.2 * np.arange(3 * RATE))
        write_video(folder / f"data/raw/{video:03d}.mp4", pictures, 10, sound, RATE)
    return folder


def _begun(limits, function) -> Generator:
    """A thousand items, of which none is asked for yet."""
    results = map_readers(limits, lambda _, item: function(item), range(1000))
    assert isinstance(results, Generator)
    return results


def test_results_come_in_the_order_of_the_items(limits):
    """Rows that depend on which worker was faster would differ from run to run."""

    def work(_, item):
        time.sleep(0.02 * (item % 3))
        return item

    assert list(map_readers(limits, work, range(40))) == list(range(40))


def test_only_a_few_items_are_read_ahead(limits):
    """A catalogue of hours must not gather in memory while an extractor works."""
    done = []
    results = _begun(limits, done.append)
    for _ in range(3):
        next(results)
    time.sleep(0.2)
    assert len(done) < 30
    results.close()


def test_a_consumer_that_stops_leaves_no_worker_behind(limits):
    before = threading.active_count()
    results = _begun(limits, lambda item: item)
    next(results)
    results.close()
    assert threading.active_count() == before


def test_an_error_that_is_no_files_fault_ends_the_run(limits):
    """Listed as one bad clip after the other, a bug would look like a bad catalogue."""

    def work(_, item):
        raise ZeroDivisionError(item)

    with pytest.raises(ZeroDivisionError):
        list(map_readers(limits, work, range(5)))


def test_nothing_to_read_is_nothing(limits):
    assert list(map_readers(limits, lambda _, item: item, [])) == []


def test_a_clip_is_its_own_stretch_of_sound_and_pictures(workspace, make_clip):
    """Clips of one video that all read its beginning would be equal, and nothing else would tell."""
    recipe = tiny.recipe()
    clips = [make_clip(video, seconds=2.0, start=start) for video in (0, 1) for start in (0.0, 1.0)]
    read = list(read_media(recipe, workspace, clips, frames=True))
    assert [media.clip for media in read] == clips
    assert not any(media.failure for media in read)
    for media, clip in zip(read, clips, strict=True):
        assert media.waveform.shape == (2 * RATE,) and media.waveform.dtype == np.float32
        assert media.frames[0].shape == (20, 64, 64, 3) and media.frames[0].dtype == np.uint8
        gain = 1.0 if clip.path.endswith("000.mp4") else 0.5
        expected = 8 * gain * (10 * clip.start + np.arange(20))
        assert np.abs(media.frames[0].mean((1, 2, 3)) - expected).max() < 4
        level = media.waveform.reshape(2, RATE).std(1) * 2**0.5  # about the middle of each second
        assert level == pytest.approx(gain * 0.2 * (clip.start + np.array([0.5, 1.5])), rel=0.2)


def test_without_frames_only_the_sound_is_read(workspace, make_clip):
    (media,) = read_media(tiny.recipe(), workspace, [make_clip(0, seconds=2.0)], frames=False)
    assert media.frames == () and len(media.waveform) == 2 * RATE


def test_a_clip_that_cannot_be_read_says_why_and_the_others_are_there(workspace, make_clip):
    """One file that vanished in the night must not cost the work of the night."""
    (workspace / "data/raw/009.mp4").write_bytes(b"no video at all")
    clips = [make_clip(video, seconds=2.0) for video in (0, 7, 9, 1)]
    read = list(read_media(tiny.recipe(), workspace, clips, frames=True))
    assert [bool(media.failure) for media in read] == [False, True, True, False]
    assert "no such file" in read[1].failure
    assert all("\n" not in media.failure for media in read)
    assert len(read[1].waveform) == 0


def test_reader_errors_name_the_file(limits, tmp_path):
    with pytest.raises(MediaError, match=r"missing\.mp4"):
        list(map_readers(limits, lambda reader, path: reader.probe(path), [tmp_path / "missing.mp4"]))
