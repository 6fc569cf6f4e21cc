"""A forgotten video is nowhere any more: not under another name, not in a cache, not in an earlier version."""

import hashlib
import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from v2meow.data import ledger, quarantine
from v2meow.data.examined import own_folder
from v2meow.data.forget import forget, identify
from v2meow.data.manifest import CLIPS, EXAMPLES, RAW, DataError, read_clips, write_clips
from v2meow.data.quarantine import Held
from v2meow.data.shards import read_shards, write_marker
from v2meow.files import read_json, write_json

CONTENT = {"bad.mp4": b"to be forgotten", "good.mp4": b"to be kept"}
HASHES = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
BAD = HASHES["bad.mp4"]


@pytest.fixture
def place(tmp_path, make_clip):
    """Two videos with sidecars, one of them twice, and what was made of them."""
    for name, content in {**CONTENT, "again/copy.mp4": CONTENT["bad.mp4"]}.items():
        file = tmp_path / RAW / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.with_suffix(".json").write_text("{}")
    (tmp_path / RAW / "metadata.csv").write_text("file,title\n")
    clips = [
        make_clip(
            0, index, video_id=digest[:16], clip_id=f"{digest[:16]}-{index:04d}", sha256=digest, path=f"{RAW}/{name}"
        )
        for name, digest in HASHES.items()
        for index in range(2)
    ]
    write_clips(tmp_path / CLIPS, clips)
    (tmp_path / EXAMPLES).mkdir()
    for shard, part in enumerate((clips[:3], clips[3:])):
        rows = [{"clip_id": clip.clip_id, "video_id": clip.video_id, "codes": [1]} for clip in part]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / EXAMPLES / f"part-{shard:05d}.parquet")
    write_marker(tmp_path / EXAMPLES, of_a_video="x")
    quarantine.write(tmp_path, [Held(clip_id=clips[0].clip_id, rule="r", reason="s")])
    return tmp_path


def test_nothing_of_the_video_is_left_in_the_workspace(place):
    examination = own_folder(place) / "examined" / BAD[:2] / f"{BAD}-settings.json"
    write_json(examination, {})
    partial = place / "data/.examples.partial/x"
    partial.mkdir(parents=True)
    done = forget(place, BAD)
    assert set(done.files) == {f"{RAW}/{name}" for name in ("bad.mp4", "bad.json", "again/copy.mp4", "again/copy.json")}
    assert done.rows == 4 and done.tables == (f"{RAW}/metadata.csv",)
    assert not examination.exists() and not partial.exists()
    assert [clip.sha256 for clip in read_clips(place)] == [HASHES["good.mp4"]] * 2
    ids = [row["video_id"] for shard in read_shards(place / EXAMPLES) for row in shard.to_pylist()]
    assert ids == [HASHES["good.mp4"][:16]] * 2
    assert read_json(place / EXAMPLES / "examples.json")["of_a_video"] == "x"
    assert quarantine.read(place) == [] and ledger.forgotten(place) == {BAD}
    assert (place / RAW / "good.json").is_file()


def test_a_second_call_finds_nothing_to_do(place):
    """A call that was killed is repeated."""
    forget(place, BAD)
    done = forget(place, BAD)
    assert (done.files, done.rows, done.objects) == ((), 0, 0)


def test_a_sidecar_that_another_video_needs_stays(place):
    (place / RAW / "bad.webm").write_bytes(b"another one of the same name")
    forget(place, BAD)
    assert (place / RAW / "bad.json").is_file() and (place / RAW / "bad.webm").is_file()


@pytest.mark.parametrize("name", [f"{RAW}/bad.mp4", BAD[:16], BAD])
def test_a_video_is_named_by_path_id_or_hash(place, name):
    assert identify(place, name) == BAD


def test_a_video_that_is_gone_already_is_known_by_its_path(place):
    (place / RAW / "bad.mp4").unlink()
    assert identify(place, f"{RAW}/bad.mp4") == BAD


def test_a_name_that_means_nothing_is_refused(place):
    """Forgetting the wrong video cannot be undone."""
    with pytest.raises(DataError, match="no content"):
        identify(place, "0" * 16)


@pytest.mark.slow
def test_earlier_versions_are_cleared_in_cache_and_remote(place):
    """The tokens of a video are its music: a pull of an earlier version would bring it back."""
    samples = place / "reports/samples"
    samples.mkdir(parents=True)
    (samples / "000-real.wav").write_bytes(b"the forgotten music")
    write_json(samples / "samples.json", [{"clip_id": f"{BAD[:16]}-0000"}])
    outs = [CLIPS.parent.as_posix(), EXAMPLES.as_posix(), "reports/samples"]
    stages = {"stages": {"all": {"cmd": "true", "outs": outs}}}
    (place / "dvc.yaml").write_text(json.dumps(stages))
    store = place.parent / f"{place.name}.remote"

    def dvc(*arguments):
        subprocess.run([sys.executable, "-m", "dvc", *arguments, "-q"], cwd=place, check=True)

    dvc("init", "--no-scm")
    dvc("remote", "add", "-d", "local", str(store))
    dvc("remote", "add", "cloud", "s3://bucket/prefix")
    dvc("commit", "-f")
    dvc("push", "-r", "local")
    done = forget(place, BAD)
    assert done.remotes == ("s3://bucket/prefix",)
    assert done.objects == 2 * 2  # the shard with the video, the sample
    for folder in (place / ".dvc/cache", store):
        left = [path.read_bytes() for path in folder.rglob("*") if path.is_file() and "files" in path.parts]
        assert left and not any(content == b"the forgotten music" for content in left)
        tables = [pq.read_table(pa.BufferReader(content)) for content in left if content[:4] == b"PAR1"]
        examples = [table for table in tables if "codes" in table.column_names]
        assert len(tables) == 2 and len(examples) == 1  # the clips stay: they say what was learnt from
        assert BAD[:16] not in examples[0]["video_id"].to_pylist()
