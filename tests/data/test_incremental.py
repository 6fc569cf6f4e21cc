"""Ingest again: what was found out before is not found out again, and changes nothing of what is said."""

import dataclasses
import json
import math
import os
import shutil

import numpy as np
import pytest

from v2meow.data import clips, groups, ledger
from v2meow.data.clips import run
from v2meow.data.examined import Examinations, Hashes, forget, own_folder
from v2meow.data.manifest import CLIPS, GROUPS, RAW, REJECTED, DataError, read_clips, read_rejected
from v2meow.files import sha256
from v2meow.media import write_video

RATE = 16_000


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    for number in range(4):
        times = np.arange(5 * RATE) / RATE
        wave = (0.1 * np.sin(2 * math.pi * (300 + 50 * number) * times)).astype(np.float32)
        picture = np.full((64, 64, 3), 50 * number, np.uint8)
        write_video(folder / f"{number}.mp4", iter([picture] * 25), 5, wave, RATE)
        os.utime(folder / f"{number}.mp4", (1, 1))
    return folder


@pytest.fixture
def workspace(tmp_path, originals):
    (tmp_path / RAW).mkdir(parents=True)
    for number in range(3):
        shutil.copy2(originals / f"{number}.mp4", tmp_path / RAW)
    return tmp_path


@pytest.fixture
def decoded(monkeypatch):
    """Names of the files that were decoded since."""
    names, examine = [], clips.examine

    def noting(recipe, file, reader):
        names.append(file.name)
        return examine(recipe, file, reader)

    monkeypatch.setattr(clips, "examine", noting)
    return names


def test_one_video_more_is_one_video_decoded(workspace, originals, nano, decoded):
    """A thousand videos decoded anew for one that was added are hours of nothing."""
    run(nano, workspace)
    first = (workspace / CLIPS).read_bytes()
    decoded.clear()
    run(nano, workspace)
    assert decoded == [] and (workspace / CLIPS).read_bytes() == first
    shutil.copy2(originals / "3.mp4", workspace / RAW)
    run(nano, workspace)
    assert decoded == ["3.mp4"]
    incremental = (workspace / CLIPS).read_bytes()
    shutil.rmtree(own_folder(workspace))
    run(nano, workspace)
    assert len(decoded) == 5 and (workspace / CLIPS).read_bytes() == incremental


def test_other_settings_and_damaged_entries_are_found_out_anew(workspace, nano, decoded):
    """What was true of clips of 4 s is not of clips of 2 s; half an entry is none."""
    run(nano, workspace)
    decoded.clear()
    shorter = dataclasses.replace(nano, data=dataclasses.replace(nano.data, clip_seconds=2.0))
    run(shorter, workspace)
    assert len(decoded) == 3
    decoded.clear()
    entry = next((own_folder(workspace) / "examined").rglob("*.json"))
    for damaged in (entry.read_bytes()[:50], entry.read_bytes().replace(b"0", b"1")):
        entry.write_bytes(damaged)
        digest = entry.name[:64]
        assert Examinations(nano, workspace).get(digest) is None or entry.name.split("-")[1] != _settings(
            nano, workspace
        )
    run(nano, workspace)
    run(shorter, workspace)
    assert len(decoded) == 1


def _settings(recipe, workspace):
    return Examinations(recipe, workspace)._path("0" * 64).name.split("-")[1]


def test_a_changed_file_is_hashed_again(workspace, monkeypatch):
    """A file of the same size that was replaced, with its times set back, must not keep its old name."""
    monkeypatch.setattr("v2meow.data.examined._SETTLED_NS", 0)
    file = workspace / RAW / "0.mp4"
    hashes = Hashes(workspace)
    assert hashes(file) == sha256(file)
    hashes.save()
    with monkeypatch.context() as patched:
        patched.setattr("v2meow.data.examined.sha256", lambda path: pytest.fail("hashed again"))
        assert Hashes(workspace)(file) == sha256(file)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, (1, 1))
    assert Hashes(workspace)(file) == sha256(file)


def test_worktrees_share_what_was_found_out(workspace, tmp_path):
    """A run in a git worktree with the shared DVC cache would else decode everything."""
    assert own_folder(workspace) == workspace / ".dvc" / "cache" / "v2meow"
    (workspace / ".dvc").mkdir()
    (workspace / ".dvc" / "config").write_text("[core]\n    remote = local\n['remote \"local\"']\n    url = x\n")
    (workspace / ".dvc" / "config.local").write_text("[cache]\n    dir = /shared/cache\n")
    assert str(own_folder(workspace)) == "/shared/cache/v2meow"


def test_a_forgotten_content_is_rejected_and_its_examination_can_be_removed(workspace, nano):
    """A person's video copied into data/raw by hand once more is still a forgotten one."""
    run(nano, workspace)
    digest = sha256(workspace / RAW / "0.mp4")
    ledger.forget(workspace, [digest], "2026-01-01T00:00:00+00:00")
    assert forget(workspace, digest) == 1 and forget(workspace, digest) == 0
    run(nano, workspace)
    assert [row.reason for row in read_rejected(workspace / REJECTED)] == [
        "this content was forgotten on request, for good"
    ]
    assert digest not in {clip.sha256 for clip in read_clips(workspace)}


def test_sidecars_and_the_table_are_joined(workspace, nano):
    """Licence and consent that are not beside each clip are forgotten when the model is sold."""
    (workspace / RAW / "metadata.csv").write_text(
        "file,title,genre,licence,attributes.mood\n"
        '0.mp4,"One, two",jazz,CC-BY-4.0,calm\n1.mp4,,rock,CC0-1.0,\n9.mp4,,,,\n'
    )
    (workspace / RAW / "0.json").write_text(
        json.dumps({"genre": "blues", "consent": "form 7", "attributes": {"bpm": 90}})
    )
    asking = dataclasses.replace(nano, data=dataclasses.replace(nano.data, licences=("cc-by-4.0", "CC0-1.0")))
    run(asking, workspace)
    about = {clip.path[-5]: clip for clip in read_clips(workspace)}
    zero = about["0"]
    assert (zero.title, zero.genre, zero.licence, zero.consent) == ("One, two", "blues", "CC-BY-4.0", "form 7")
    assert zero.attributes == {"mood": "calm", "bpm": 90} and about["1"].genre == "rock"
    reasons = {row.path: row.reason for row in read_rejected(workspace / REJECTED)}
    assert reasons["data/raw/2.mp4"] == "no licence is named, which is none of data.licences: cc-by-4.0, CC0-1.0"
    assert reasons["data/raw/9.mp4"] == "metadata.csv names it, but it is not here"


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("file,captoin\n0.mp4,x\n", "unknown column 'captoin'"),
        ("name\n0.mp4\n", "unknown column 'name'"),
        ("title\nx\n", "no column `file`"),
        ("file,title\n0.mp4\n", "row 2 has more or fewer columns"),
        ("file,title\n0.mp4,a\n0.mp4,b\n", "row 3 is the second about '0.mp4'"),
        ('file,title\n0.mp4,"a\n', "not a CSV table"),
    ],
)
def test_a_malformed_table_stops_ingest(workspace, nano, table, reason):
    """A misspelt column that is passed over trains a model without captions, or with what nobody allowed."""
    (workspace / RAW / "metadata.csv").write_text(table)
    with pytest.raises(DataError, match=r"metadata\.csv") as error:
        run(nano, workspace)
    assert reason in str(error.value)


def test_videos_of_one_group_are_of_one_split(workspace, nano):
    """Two recordings of one song that no fingerprint tells for copies."""
    for name in ("0", "1"):
        (workspace / RAW / f"{name}.json").write_text('{"group": "one song"}')
    assert run(nano, workspace)["groups"] == 2
    found = {clip.path[-5]: clip for clip in read_clips(workspace)}
    assert found["0"].group == found["1"].group != found["2"].group and found["0"].split == found["1"].split


def test_a_growing_group_stays_where_it_is():
    """A new copy with a smaller id would move the whole group, and what was trained on would judge the model."""
    first = groups.assign({}, [["8b", "7a"], ["20"]])
    assert first.group_of == {"8b": "7a", "7a": "7a", "20": "20"}
    grown = groups.assign(first.group_of, [["8b", "10"], ["20"]])  # 7a has left
    assert grown.group_of["10"] == "7a" and grown.merged == {}


def test_groups_that_merge_go_where_they_may_have_been_learnt():
    """Held out, the merged group would be judged by models that were trained on half of it."""
    known = {"01": "01", "f0": "f0", "80": "80"}
    merged = groups.assign(known, [["01", "f0"], ["80", "f0"]])
    assert merged.group_of == dict.fromkeys(known, "f0") and merged.merged == {"01": "f0", "80": "f0"}


def test_groups_come_back_as_written_and_damage_is_named(workspace, nano):
    """Groups taken for unknown would all be made anew, and move."""
    run(nano, workspace)
    assert set(groups.read(workspace / GROUPS)) == {clip.video_id for clip in read_clips(workspace)}
    (workspace / GROUPS).write_bytes(b"x")
    with pytest.raises(DataError, match=r"groups\.parquet is not a Parquet file"):
        run(nano, workspace)


def test_clips_do_not_cross_cuts_where_asked(workspace, nano):
    """A clip of two scenes teaches music to change where nothing is heard."""
    folder = workspace / RAW
    colours = [np.full((64, 64, 3), shade, np.uint8) for shade in ((200, 30, 30), (20, 40, 220))]
    frames = [colours[0]] * 45 + [colours[1]] * 55
    wave = (0.1 * np.sin(np.arange(10 * RATE) * 0.3)).astype(np.float32)
    write_video(folder / "cut.mp4", iter(frames), 10, wave, RATE)
    cutting = dataclasses.replace(nano, data=dataclasses.replace(nano.data, scene_threshold=27.0, hop_seconds=1.0))
    run(cutting, workspace)
    starts = [clip.start for clip in read_clips(workspace) if clip.path.endswith("cut.mp4")]
    assert starts == pytest.approx([0.0, 4.5, 5.5], abs=0.11)
