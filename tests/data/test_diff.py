"""What changed in a catalogue is told by content: a renamed file is no new video, a replaced one is."""

import json

import pyarrow.parquet as pq
import pytest

from v2meow.data.diff import diff, read_table
from v2meow.data.manifest import CLIPS, DataError, read_clips_table, write_clips


@pytest.fixture
def versions(tmp_path, make_clip):
    """Clips before: 0-3. After: 0 as it was, 1 renamed, 2 with other content, 3 gone, 5 new; 0 in the other split."""
    before = [make_clip(video, index) for video in range(4) for index in range(2)]
    after = [make_clip(0, index, split="train") for index in range(2)]
    after += [make_clip(1, path="data/raw/other.mp4"), make_clip(9, path="data/raw/002.mp4"), make_clip(5)]
    for name, clips in (("before", before), ("after", after)):
        write_clips(tmp_path / name / CLIPS, clips)
    return read_clips_table(tmp_path / "before"), read_clips_table(tmp_path / "after")


def test_every_kind_of_change_is_told_apart(versions):
    found = diff(*versions)
    assert found.added == ("data/raw/005.mp4",)
    assert found.removed == ("data/raw/003.mp4",)
    assert found.replaced == ("data/raw/002.mp4",)
    assert found.renamed == (("data/raw/001.mp4", "data/raw/other.mp4"),)
    assert found.split_changed == ("data/raw/000.mp4",)
    assert (found.before.videos, found.after.videos) == (4, 4)


def test_the_same_catalogue_has_no_difference(versions):
    found = diff(versions[0], versions[0])
    assert not any((found.added, found.removed, found.replaced, found.renamed, found.split_changed))
    assert found.genre_psi == 0 and all(column.ks == 0 for column in found.columns.values())


def test_a_catalogue_that_became_louder_is_seen(tmp_path, make_clip):
    tables = []
    for loudness in (-30.0, -10.0):
        clips = [make_clip(video, lufs=loudness - video % 7, loudness_db=-20.0 - video % 7) for video in range(40)]
        write_clips(tmp_path / CLIPS, clips)
        tables.append(read_clips_table(tmp_path))
    found = diff(tables[0], tables[1])
    louder, same = found.columns["lufs"], found.columns["loudness_db"]
    assert louder.ks == 1.0 and louder.drift is not None and louder.drift.shifted
    assert same.ks == 0.0 and same.drift is not None and not same.drift.shifted
    assert json.loads(json.dumps(found.plain()))["columns"]["lufs"]["drift"]["before"] == pytest.approx(-32.875)


def test_a_table_of_an_earlier_edition_is_compared_as_far_as_it_goes(versions):
    earlier = versions[0].drop_columns(["lufs", "genre"])
    found = diff(earlier, versions[1])
    assert "lufs" not in found.columns and "loudness_db" in found.columns


def test_what_is_no_table_of_clips_is_refused(tmp_path, versions):
    pq.write_table(versions[0].select(["clip_id"]), tmp_path / "ids.parquet")
    with pytest.raises(DataError, match="it lacks path, split, video_id"):
        read_table(tmp_path / "ids.parquet")
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(DataError, match="no table of clips"):
        read_table(tmp_path / "text.parquet")
