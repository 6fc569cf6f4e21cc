"""The tables of the catalogue: what is written is what is read, and splits that never move."""

import hashlib
import os
import subprocess

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from v2meow.data.manifest import (
    CLIPS,
    DataError,
    RejectedFile,
    assign_splits,
    read_clips,
    read_failed,
    read_rejected,
    split_of,
    write_clips,
    write_failed,
    write_rejected,
)

IDS = [hashlib.sha256(str(i).encode()).hexdigest()[:16] for i in range(2000)]


def test_clips_come_back_as_written_in_order_of_path_and_start(tmp_path, make_clip):
    """Values that change on disk, or an order that depends on scheduling, change every hash downstream."""
    clips = [
        make_clip(0, 0, caption="naïve “music” 猫", attributes={"tempo": 92.5, "mode": "minor", "live": True}),
        make_clip(0, 1),
        make_clip(1, 0, loudness_db=-33.25),
    ]
    write_clips(tmp_path / CLIPS, clips[::-1])
    assert read_clips(tmp_path) == clips


def test_equal_clips_give_equal_bytes(tmp_path, make_clip):
    """A table whose bytes differ from run to run would make DVC repeat the whole pipeline."""
    clips = [make_clip(video, attributes={"b": 1, "a": 2}) for video in range(3)]
    write_clips(tmp_path / "one.parquet", clips)
    write_clips(tmp_path / "two.parquet", [make_clip(video, attributes={"a": 2, "b": 1}) for video in (2, 0, 1)])
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_a_workspace_folder_that_looks_like_a_partition_adds_no_column(tmp_path, make_clip):
    """Arrow takes `seed=3` in a path for a column of the table unless told otherwise."""
    write_clips(tmp_path / "seed=3" / CLIPS, [make_clip()])
    assert read_clips(tmp_path / "seed=3") == [make_clip()]


def _no_table(path):
    path.unlink()


def _not_parquet(path):
    path.write_text("clip_id,video_id\n")


def _cut_short(path):
    path.write_bytes(path.read_bytes()[:-100])


def _other_columns(path):
    pq.write_table(pa.table({"clip_id": ["a"]}), path)


@pytest.mark.parametrize("damage", [_no_table, _not_parquet, _cut_short, _other_columns])
def test_a_table_that_cannot_be_used_is_named_in_one_line(tmp_path, make_clip, damage):
    """An Arrow traceback tells nobody which file to look at or what to run."""
    write_clips(tmp_path / CLIPS, [make_clip()])
    damage(tmp_path / CLIPS)
    with pytest.raises(DataError, match=r"clips\.parquet") as error:
        read_clips(tmp_path)
    assert "\n" not in str(error.value)


def test_the_holdout_share_is_that_of_the_recipe():
    """A fraction computed over the wrong range would hold out nothing, or everything."""
    held_out = sum(split_of(video_id, 0.15) == "holdout" for video_id in IDS)
    assert 0.12 < held_out / len(IDS) < 0.18


def test_splits_stay_when_the_catalogue_grows():
    """A video that moves from hold-out to training makes every comparison of models dishonest."""
    before, after = assign_splits(IDS[:100], 0.15), assign_splits(IDS, 0.15)
    assert before == {video_id: after[video_id] for video_id in before}
    assert before == assign_splits(reversed(IDS[:100]), 0.15)


def test_a_larger_share_only_adds_to_the_holdout():
    """Raising `data.holdout` must never move a held-out video into training."""
    small, large = ({i for i in IDS if split_of(i, share) == "holdout"} for share in (0.1, 0.2))
    assert small < large


@pytest.mark.parametrize(
    ("holdout", "expected"), [(1e-9, ["holdout", "train", "train"]), (1 - 1e-9, ["holdout", "holdout", "train"])]
)
def test_neither_split_is_ever_empty(holdout, expected):
    """By chance a small catalogue has no video to evaluate on, or none to train on."""
    ids = ["1000000000000000", "8000000000000000", "e000000000000000"]
    assert list(assign_splits(ids, holdout).values()) == expected


@pytest.mark.parametrize("ids", [[], IDS[:1], IDS[:1] * 3])
def test_one_video_is_not_a_catalogue(ids):
    """Evaluating on the only video there is would measure memory."""
    with pytest.raises(DataError, match="at least one each"):
        assign_splits(ids, 0.5)


def test_rejected_files_survive_hostile_names(tmp_path):
    """The list of bad files must not itself break on commas, line breaks or bytes that are no text."""
    rejected = [RejectedFile('data/raw/a,"b"\nc.mp4', "one, two"), RejectedFile("data/raw/z.mp4", "no soundtrack")]
    write_rejected(tmp_path / "rejected.csv", rejected[::-1])
    assert read_rejected(tmp_path / "rejected.csv") == rejected
    write_rejected(tmp_path / "bytes.csv", [RejectedFile(os.fsdecode(b"data/raw/\xff.mp4"), "the name")])
    assert read_rejected(tmp_path / "bytes.csv") == [RejectedFile(r"data/raw/\udcff.mp4", "the name")]


def test_an_empty_list_of_rejected_files_has_its_header(tmp_path):
    """A file of zero bytes cannot be told from one whose writing was cut off."""
    write_rejected(tmp_path / "rejected.csv", [])
    assert (tmp_path / "rejected.csv").read_text() == "path,reason\n"
    assert read_rejected(tmp_path / "rejected.csv") == []
    (tmp_path / "rejected.csv").write_text("")
    with pytest.raises(DataError, match=r"rejected\.csv does not start with"):
        read_rejected(tmp_path / "rejected.csv")


def test_failed_clips_come_back_as_written(tmp_path):
    """A clip whose reason is lost counts as missing."""
    write_failed(tmp_path / "failed.csv", {"b-0001": "took longer than 60 s", "a-0000": "no frames"})
    assert read_failed(tmp_path / "failed.csv") == {"a-0000": "no frames", "b-0001": "took longer than 60 s"}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, text=True)
    if mount.returncode != 0:
        pytest.skip(f"no small file system here: {mount.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_the_old_table(small_disk, make_clip):
    """Half a table after a full disk would be read as a small catalogue."""
    old = [make_clip(0), make_clip(1)]
    write_clips(small_disk / CLIPS, old)
    many = [make_clip(video, caption=hashlib.sha256(str(video).encode()).hexdigest()) for video in range(3000)]
    with pytest.raises(OSError, match=r"could not write .*clips\.parquet: .*[Nn]o space left"):
        write_clips(small_disk / CLIPS, many)
    assert read_clips(small_disk) == old
    assert [path.name for path in (small_disk / "data/clips").iterdir()] == ["clips.parquet"]
