"""Made studies: what reaches raters is equally loud, shows the same picture, and tells nothing of the systems."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from study_media import RATE, SECONDS, VIDEOS, pictures, tone

from v2meow.data.manifest import Clip, write_clips
from v2meow.data.measure import SILENCE_LUFS, lufs
from v2meow.evaluate.study.create import LIMITS, Wish, create
from v2meow.evaluate.study.design import MEDIA, StudyError, read_study
from v2meow.evaluate.study.serve import check_media, invitations
from v2meow.evaluate.study.sources import Source, common, read_pictures, read_real, read_source
from v2meow.files import sha256, write_json
from v2meow.media import Reader, write_video, write_wav


def _sources(music: Path) -> list[Source]:
    return [read_source(name, music / name) for name in ("falcon", "badger")]


def test_all_pairs_are_there_and_files_are_named_by_their_content(study_folder):
    study = read_study(study_folder)
    assert Counter(pair.kind for pair in study.pairs.values()) == {"compare": len(VIDEOS), "silent": 1, "mismatched": 1}
    assert {study.systems_of(pair) for pair in study.of_kind("compare")} == {("falcon", "badger")}
    for item in study.items.values():
        assert item.file == sha256(study_folder / MEDIA / item.file) + ".mp4"
    for pair in study.pairs.values():
        assert study.items[pair.a].video == study.items[pair.b].video == pair.video
    check_media(study, study_folder)


def test_nothing_in_the_media_tells_who_made_them(study_folder):
    """Names of files, comments that generators write, and encoders' names would all break the blind."""
    for path in (study_folder / MEDIA).iterdir():
        content = path.read_bytes().lower()
        assert not [word for word in (b"falcon", b"badger", b"made by", b"beach", b"night") if word in content]


def test_sides_differ_in_their_music_alone(study_folder):
    """`badger` comes 20 dB louder and as WAV: raters must hear and see none of that."""
    study = read_study(study_folder)
    with Reader(LIMITS) as reader:
        for pair in study.pairs.values():
            a, b = (study_folder / MEDIA / study.items[side].file for side in (pair.a, pair.b))
            np.testing.assert_array_equal(reader.frames(a, 5, 64), reader.frames(b, 5, 64))
            sounds = [reader.waveform(path, 48_000) for path in (a, b)]
            assert abs(len(sounds[0]) / 48_000 - SECONDS) < 0.1 and len(sounds[0]) == len(sounds[1])
            levels = [lufs(sound, 48_000) for sound in sounds]
            assert abs(levels[0] + 20) < 0.3
            assert levels[1] == SILENCE_LUFS if pair.kind == "silent" else abs(levels[1] - levels[0]) < 0.3


def test_mismatched_pairs_have_the_systems_own_music_for_the_other_video(study_folder):
    study = read_study(study_folder)
    (pair,) = study.of_kind("mismatched")
    a, b = study.items[pair.a], study.items[pair.b]
    assert (a.system, a.video, a.sound, b.sound) == (b.system, b.video, "own", "other video's")
    twin = next(item for item in study.items.values() if item.system == a.system and item.video != a.video)
    with Reader(LIMITS) as reader:
        heard, other, own = (reader.waveform(study_folder / MEDIA / item.file, 8000) for item in (b, twin, a))
    assert np.abs(heard - other).mean() < 0.1 * np.abs(heard - own).mean()


def test_every_invitation_is_a_token_of_its_own(study_folder):
    assert len(set(invitations(study_folder) or [])) == 3


def test_what_cannot_become_a_study_is_told_in_a_line_and_leaves_nothing(music, tmp_path):
    """A study with missing or shorter music would measure that, and not the music."""
    out, sources = tmp_path / "study", _sources(music)
    short = tmp_path / "short"
    for name in VIDEOS:
        write_wav(short / f"{name}.wav", tone(300, 0.1, SECONDS - 0.8), RATE)
    write_wav(tmp_path / "other" / "forest.wav", tone(300, 0.1), RATE)
    (tmp_path / "empty").mkdir()
    attempts = {
        "at least two systems": lambda: create(out, sources[:1], {}, Wish()),
        "a name of its own": lambda: create(out, [sources[0], sources[0]], {}, Wish()),
        "there already": lambda: create(music, sources, {}, Wish()),
        "cut all to one length": lambda: create(out, [sources[0], read_source("short", short)], {}, Wish(silent=0)),
        "same name": lambda: create(out, [sources[0], read_source("other", tmp_path / "other")], {}, Wish()),
        "--videos": lambda: common([sources[1], sources[1]], {}),
        "no such folder": lambda: read_source("x", tmp_path / "nowhere"),
        "holds no music": lambda: read_source("x", tmp_path / "empty"),
        "evaluated": lambda: read_real(music),
    }
    for words, attempt in attempts.items():
        with pytest.raises(StudyError, match=words) as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert not out.exists() and not list(tmp_path.glob(".study*"))


def test_a_damaged_file_is_found_before_anybody_rates_it(study_folder, tmp_path):
    study = read_study(study_folder)
    (tmp_path / MEDIA).mkdir()
    for path in (study_folder / MEDIA).iterdir():
        (tmp_path / MEDIA / path.name).write_bytes(path.read_bytes())
    damaged = next((tmp_path / MEDIA).iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(StudyError, match="damaged"):
        check_media(study, tmp_path)
    damaged.unlink()
    with pytest.raises(StudyError, match="missing"):
        check_media(study, tmp_path)


def test_given_videos_stand_over_those_with_music_and_other_names_are_counted(music, tmp_path):
    write_video(tmp_path / "beach.mp4", pictures(200), 10, np.zeros(RATE, np.float32), RATE)
    write_wav(tmp_path / "forest.wav", tone(300, 0.1), RATE)
    extra = read_source("extra", tmp_path)
    shared, left_out = common([*_sources(music), extra], read_pictures(tmp_path))
    assert {name: picture.path for name, picture in shared.items()} == {"beach": tmp_path / "beach.mp4"}
    assert left_out == 2  # night, forest


def test_the_samples_of_a_workspace_are_compared_with_the_real_music_over_their_clips(tmp_path):
    """They are sounds of parts of videos: the picture must be that part, in a codec that browsers show."""
    video, samples = tmp_path / "data/raw/long.mp4", tmp_path / "reports/samples"
    write_video(video, pictures(90), 10, tone(300, 0.3), RATE)
    about = {"video_id": "f0", "sha256": "f0", "video_seconds": SECONDS, "fps": 10.0, "width": 128, "height": 96}
    about |= {"sample_rate": RATE, "channels": 1, "loudness_db": -20.0, "split": "holdout", "caption": ""}
    clip = Clip(clip_id="f0-1", path="data/raw/long.mp4", start=0.6, seconds=1.0, attributes={}, **about)
    write_clips(tmp_path / "data/clips/clips.parquet", [clip])
    for kind, pitch in (("generated", 400.0), ("real", 300.0)):
        write_wav(samples / f"000-{kind}.wav", tone(pitch, 0.2, 1.0), RATE)
    write_json(samples / "samples.json", [{"number": "000", "clip_id": "f0-1", "caption": "", "attributes": {}}])
    figures = create(tmp_path / "study", [read_source("new", tmp_path), read_real(tmp_path)], {}, Wish(silent=0))
    assert (figures["systems"], figures["videos"]) == (2, 1)
    study = read_study(tmp_path / "study")
    assert study.systems == ("new", "real")
    with Reader(LIMITS) as reader:
        made = tmp_path / "study" / MEDIA / next(iter(study.items.values())).file
        assert reader.probe(made).video_codec == "h264"
        assert abs(reader.probe(made).seconds - 1.0) < 0.11
        expected = reader.frames(video, 10, 32, 0.6, 1.0).astype(float)
        assert np.abs(reader.frames(made, 10, 32, 0.0, 1.0) - expected).mean() < 6
