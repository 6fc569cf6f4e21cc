"""A file that is there is whole: neither an exception, a killed process nor a full disk leaves half of one."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from disks import small_disk

from v2meow.files import DamagedFileError, atomic_file, atomic_folder, read_json, sha256, write_json

WRITE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from v2meow import files

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

setattr(os, sys.argv[1], die)
with getattr(files, sys.argv[2])(Path(sys.argv[3])) as temporary:
    (temporary / "part" if temporary.is_dir() else temporary).write_text("new")
"""


def _listing(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_file_appears_only_when_it_is_finished(tmp_path):
    path = tmp_path / "new/folder/table.csv"
    with atomic_file(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists() and temporary.suffix == ".csv"
    assert _listing(tmp_path) == {"new/folder/table.csv": "whole"}


def test_an_exception_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_file(path) as temporary:
        temporary.write_text("half")
        _ = 1 / 0
    assert _listing(tmp_path) == {"table.csv": "old"}


def test_a_folder_takes_the_place_of_the_old_one_as_a_whole(tmp_path):
    """Files of an older version that stayed behind would be read together with the new ones."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "part-old").write_text("old")
    with atomic_folder(path) as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep/part-new").write_text("new")
        assert (path / "part-old").exists()
    assert _listing(tmp_path) == {"model/deep/part-new": "new"}
    assert path.stat().st_mode & 0o777 == 0o755


def test_an_exception_leaves_the_old_folder_and_no_litter(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "part").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_folder(path) as temporary:
        (temporary / "part").write_text("half")
        _ = 1 / 0
    assert _listing(tmp_path) == {"model/part": "old"}


@pytest.mark.parametrize("moment", ["fsync", "replace"])
@pytest.mark.parametrize("writer", ["atomic_file", "atomic_folder"])
def test_a_killed_process_leaves_nothing_that_looks_finished(writer, moment, tmp_path):
    """Killed before the content is on the disk, or just before the rename; and the next attempt succeeds."""
    child = subprocess.run([sys.executable, "-c", WRITE_AND_DIE, moment, writer, tmp_path / "out"], timeout=60)
    assert child.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert all(path.name.startswith(".") for path in tmp_path.iterdir())
    write_json(tmp_path / "out", 1)
    assert read_json(tmp_path / "out") == 1


def test_a_full_disk_is_told_with_the_files_name(tmp_path):
    """And what was there before stays."""
    with small_disk(tmp_path / "disk") as disk:
        write_json(disk / "metrics.json", "old")
        with pytest.raises(OSError, match=r"could not write .*metrics\.json: No space left"):
            write_json(disk / "metrics.json", "x" * 100_000)
        with (
            pytest.raises(OSError, match=r"could not write .*model: No space left"),
            atomic_folder(disk / "model") as out,
        ):
            (out / "weights").write_bytes(bytes(100_000))
        assert _listing(disk) == {"metrics.json": '"old"\n'}


def test_json_comes_back_and_is_the_same_bytes_for_the_same_value(tmp_path):
    """DVC compares bytes: an order of keys that depends on the writer would run every step again."""
    write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, None, "é"]})
    write_json(tmp_path / "b.json", {"a": [1.5, None, "é"], "b": 1})
    assert read_json(tmp_path / "a.json") == {"a": [1.5, None, "é"], "b": 1}
    assert sha256(tmp_path / "a.json") == sha256(tmp_path / "b.json")


def test_a_figure_that_is_not_a_number_is_not_written(tmp_path):
    """`NaN` is no JSON: browsers and DVC cannot read the file."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "metrics.json", {"loss": float("nan")})
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe"])
def test_a_damaged_json_file_is_named(content, tmp_path):
    (tmp_path / "metrics.json").write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"metrics\.json is not valid JSON"):
        read_json(tmp_path / "metrics.json")


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
