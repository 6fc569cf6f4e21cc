"""Near-copies are found whatever was done to them, and nothing else is taken for one."""

import itertools

import numpy as np
import pytest

from v2meow.data import synthetic
from v2meow.data.fingerprint import PICTURE_SIDE, picture_hashes, sound_keys
from v2meow.data.similar import Fingerprint, connected, near_copies, same_pictures, same_sound
from v2meow.media import write_video

RATE = 16_000


def _print(reader, path):
    return Fingerprint(
        sound_keys(reader.waveform(path, RATE), RATE), picture_hashes(reader.frames(path, 2.0, PICTURE_SIDE))
    )


@pytest.fixture(scope="module")
def originals(media_folder, reader):
    """Real music videos, of which some are parts of one film, and their fingerprints."""
    paths = sorted((media_folder / "music_videos").iterdir())[::3]
    return {path: _print(reader, path) for path in paths}


def test_no_two_originals_are_taken_for_copies(originals):
    """One false pair joins groups, and in the end the whole catalogue is one that cannot be split."""
    prints = list(originals.values())
    assert list(near_copies(prints)) == []
    for one, other in itertools.combinations(prints, 2):
        assert not same_sound(one.sound, other.sound) and not same_pictures(one.pictures, other.pictures)


def test_a_copy_encoded_anew_smaller_shorter_and_quieter_is_found(originals, reader, tmp_path):
    """Such a copy on the other side of the split is music learnt by heart that counts as music understood."""
    prints, expected = list(originals.values()), []
    for index, path in enumerate(list(originals)[:4]):
        sound, pictures = reader.waveform(path, 44_100), reader.frames(path, 12, 96)
        copy = tmp_path / f"{index}.mp4"
        write_video(copy, iter(pictures[9:]), 12, (0.4 * sound[round(0.75 * 44_100) :]).astype(np.float32), 44_100)
        expected.append((index, len(prints)))
        prints.append(_print(reader, copy))
    assert list(near_copies(prints)) == expected


def test_other_music_under_the_same_pictures_is_a_copy_and_so_is_the_reverse(originals):
    """A video that has its pictures or its music in training is no judge of the model."""
    rich = max(originals.values(), key=lambda each: len(each.pictures))
    other = min(originals.values(), key=lambda each: len(each.pictures))
    pair = [rich, Fingerprint(other.sound, rich.pictures), Fingerprint(rich.sound, other.pictures)]
    assert set(near_copies(pair)) >= {(0, 1), (0, 2)}


def test_the_synthetic_catalogue_has_no_copies(tmp_path, reader):
    """Its videos are alike on purpose: four timbres, four shapes on a plain ground."""
    synthetic.make(tmp_path, 0, 12)
    assert list(near_copies([_print(reader, path) for path in sorted(tmp_path.glob("*.mp4"))])) == []


def test_silence_and_plain_pictures_are_nobodys_copies():
    """All silent and all black videos would be one group."""
    black = np.zeros((16, PICTURE_SIDE, PICTURE_SIDE, 3), np.uint8)
    nothing = Fingerprint(sound_keys(np.zeros(8 * RATE, np.float32), RATE), picture_hashes(black))
    assert len(nothing.sound) == 0 and not nothing.pictures.any()
    assert list(near_copies([nothing] * 3)) == []
    assert list(near_copies([])) == []


def test_keys_do_not_depend_on_where_reading_began():
    """Long videos are read in parts: keys at other times than the video's own would meet none of a copy's."""
    wave = np.random.default_rng(0).normal(0, 0.1, 20 * RATE).astype(np.float32)
    whole = {tuple(row) for row in sound_keys(wave, RATE).tolist()}
    part = {tuple(row) for row in sound_keys(wave[6 * RATE : 14 * RATE], RATE, 6.0).tolist()}
    assert len(part & whole) > 0.9 * len(part) > 20


def test_many_videos_cost_what_they_are():
    """Comparing each with each, 2,000 videos would take 2 million comparisons; those that share nothing take none."""
    random = np.random.default_rng(0)
    hops = np.arange(0, 2_000, 4, dtype=np.uint32)

    def one():
        keys = random.integers(0, 1 << 32, len(hops), dtype=np.uint32)
        return Fingerprint(np.stack([keys, hops], axis=1), random.integers(1, 1 << 63, 32, dtype=np.uint64))

    prints = [one() for _ in range(2_000)]
    prints.append(prints[7])
    assert list(near_copies(prints)) == [(7, 2_000)]


def test_copies_of_copies_are_one_group():
    assert connected(6, iter([(4, 5), (0, 2), (2, 4)])) == [0, 1, 0, 3, 0, 0]
