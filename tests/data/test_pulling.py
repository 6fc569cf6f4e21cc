"""Bringing videos in from a folder: each content once, nothing lost, nothing that was forgotten."""

import os
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from v2meow.data import ledger
from v2meow.data.manifest import LEDGER, RAW, DataError
from v2meow.data.pull import news, pull
from v2meow.data.source import ChangedError, open_source
from v2meow.files import sha256


@pytest.fixture
def shop(tmp_path):
    """A source `new` and a workspace `ws` of plain bytes: a pull never looks into a video."""
    (tmp_path / "new").mkdir()
    (tmp_path / "ws").mkdir()
    for name in ("a", "b"):
        (tmp_path / "new" / f"{name}.mp4").write_bytes(name.encode() * 1000)
    (tmp_path / "new" / "a.json").write_text('{"title": "A"}')
    (tmp_path / "new" / "notes.txt").write_text("no video")
    return tmp_path


def _pull(shop, **options):
    return pull(shop / "ws", open_source(str(shop / "new")), **options)


def _raw(shop):
    folder = shop / "ws" / RAW / "new"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _states(shop):
    return [(row.key, row.state) for row in ledger.read(shop / "ws")]


def test_a_second_pull_does_nothing(shop):
    """A schedule that pulls every hour would else copy the whole catalogue every hour."""
    first = _pull(shop)
    assert (first.added, first.unchanged, first.skipped) == (3, 0, {})
    assert _raw(shop) == {"a.mp4": b"a" * 1000, "b.mp4": b"b" * 1000, "a.json": b'{"title": "A"}'}
    written = (shop / "ws" / LEDGER).read_bytes()
    assert news(shop / "ws", open_source(str(shop / "new"))) == 0
    assert _pull(shop).unchanged == 3 and (shop / "ws" / LEDGER).read_bytes() == written
    assert not list((shop / "ws" / "data" / ".pull").glob("*.part"))


def test_a_renamed_video_is_the_same_one_beside_its_sidecar(shop):
    """Taken for new, it would be held out and trained on; left at its old name, its caption would be lost."""
    _pull(shop)
    for suffix in ("mp4", "json"):
        (shop / "new" / f"a.{suffix}").rename(shop / "new" / f"c.{suffix}")
    pulled = _pull(shop)
    assert (pulled.added, pulled.same_content, pulled.gone) == (2, 1, 2)
    assert set(_raw(shop)) == {"b.mp4", "c.mp4", "c.json"}


def test_a_second_upload_of_a_video_needs_no_file_and_outlives_the_first(shop):
    """Deleting one of two equal objects, or writing to it in place, must not lose the only copy."""
    (shop / "new" / "z.mp4").write_bytes(b"a" * 1000)
    assert _pull(shop).same_content == 1
    assert "z.mp4" not in _raw(shop)
    (shop / "new" / "a.mp4").write_bytes(b"another version")
    assert _pull(shop).replaced == 1
    assert _raw(shop)["a.mp4"] == b"another version" and _raw(shop)["z.mp4"] == b"a" * 1000
    (shop / "new" / "z.mp4").unlink()
    _pull(shop)
    assert "z.mp4" not in _raw(shop)


def test_what_was_replaced_or_deleted_at_the_source_leaves_and_stays_in_the_ledger(shop):
    """The next version of the dataset is what the source holds; who held what when must remain known."""
    _pull(shop)
    (shop / "new" / "a.mp4").write_bytes(b"second version")
    (shop / "new" / "b.mp4").unlink()
    assert news(shop / "ws", open_source(str(shop / "new"))) == 2
    pulled = _pull(shop)
    assert (pulled.replaced, pulled.gone) == (1, 1)
    assert _raw(shop).keys() == {"a.mp4", "a.json"} and _raw(shop)["a.mp4"] == b"second version"
    assert ("a.mp4", "replaced") in _states(shop) and ("b.mp4", "gone") in _states(shop)
    (shop / "new" / "b.mp4").write_bytes(b"b" * 1000)
    assert _pull(shop).added == 1 and "b.mp4" in _raw(shop)


def test_touching_a_file_makes_no_new_version(shop):
    """A copied or synchronised folder has new times everywhere, and the same videos."""
    _pull(shop)
    os.utime(shop / "new" / "a.mp4", ns=(1, 1))
    pulled = _pull(shop)
    assert (pulled.unchanged, pulled.replaced) == (3, 0) and len(ledger.read(shop / "ws")) == 3


def test_what_was_forgotten_never_comes_back(shop):
    """Who asked to be forgotten is not brought in again by the next schedule, under whatever name."""
    _pull(shop)
    digest = sha256(shop / "new" / "a.mp4")
    files = ledger.forget(shop / "ws", [digest], datetime.now(UTC).isoformat())
    assert files == [shop / "ws" / RAW / "new" / "a.mp4"]
    files[0].unlink()
    (shop / "new" / "again.mp4").write_bytes(b"a" * 1000)
    pulled = _pull(shop)
    assert pulled.forgotten == 2 and _raw(shop).keys() == {"b.mp4", "a.json"}
    assert ledger.forgotten(shop / "ws") == {digest} and ("again.mp4", "forgotten") in _states(shop)
    (shop / "ws" / LEDGER).unlink()
    assert "a.mp4" not in (_pull(shop), _raw(shop))[1]


def test_an_empty_listing_deletes_nothing_unless_asked(shop):
    """A disk that is not mounted looks like a catalogue of which everything was deleted."""
    _pull(shop)
    for path in (shop / "new").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="lists nothing any more: nothing was changed"):
        _pull(shop)
    assert len(_raw(shop)) == 3
    assert _pull(shop, allow_empty=True).gone == 3 and not _raw(shop)
    (shop / "new").rmdir()
    with pytest.raises(DataError, match="is it mounted"):
        _pull(shop)


class _DyingError(BaseException):
    """As good as SIGKILL: nobody handles it."""


def test_a_killed_pull_loses_nothing_and_believes_nothing_half_written(shop, monkeypatch):
    """Half a video that stands in data/raw is trained on; one that the ledger lists but that is not there is lost."""
    source = open_source(str(shop / "new"))
    fetch = type(source).fetch

    def dying(self, wanted, part):
        if wanted.key == "b.mp4":
            part.write_bytes(b"half of b")
            raise _DyingError
        fetch(self, wanted, part)

    with monkeypatch.context() as patched, pytest.raises(_DyingError):
        patched.setattr(type(source), "fetch", dying)
        pull(shop / "ws", source)
    assert _raw(shop).keys() == {"a.mp4", "a.json"}
    (shop / "ws" / LEDGER).unlink()  # killed before it was written
    _pull(shop)
    assert _raw(shop)["b.mp4"] == b"b" * 1000 and len(_raw(shop)) == 3
    (shop / "ws" / RAW / "new" / "b.mp4").unlink()  # a link to the source's own file
    (shop / "ws" / RAW / "new" / "b.mp4").write_bytes(b"cut off")
    assert _pull(shop).replaced == 0 and _raw(shop)["b.mp4"] == b"b" * 1000


def test_two_pulls_at_once_are_one(shop, monkeypatch):
    """Two that write one ledger lose the rows of one."""
    source = open_source(str(shop / "new"))

    def nested(self, wanted, part):
        with pytest.raises(DataError, match="another pull is at work"):
            _pull(shop)
        raise ChangedError("it went")

    monkeypatch.setattr(type(source), "fetch", nested)
    assert len(pull(shop / "ws", source).skipped) == 3


def test_hostile_names_stay_below_data_raw(shop):
    """A key is whatever its uploader typed."""
    names = [
        "new\nline.mp4",
        "quo\"te's.mp4",
        "naïve 猫.mp4",
        "$(touch pwned).mp4",
        "-rf.mp4",
        "n" * 250 + ".mp4",
        "%0A.mp4",
    ]
    for name in names:
        (shop / "new" / name).write_bytes(name.encode())
    (shop / "new" / os.fsdecode(b"\xff.mp4")).write_bytes(b"bytes")
    pulled = _pull(shop)
    contents = list(_raw(shop).values())
    assert all(name.encode() in contents for name in names)
    assert list(pulled.skipped.values()) == ["the name is not UTF-8"]
    assert not any("\n" in name for name in _raw(shop))
    assert _pull(shop).added == 0


@pytest.mark.parametrize("address", ["", "https://host/x", "ftp://x"])
def test_what_is_no_source_is_refused(address):
    with pytest.raises(DataError, match="is no source"):
        open_source(address)


def test_a_damaged_ledger_stops_the_pull(shop):
    """Taken for an empty one it would bring back what had been forgotten, and keep what had gone."""
    _pull(shop)
    for damage in (b"not parquet", None):
        if damage is None:
            pq.write_table(pa.table({"a": [1]}), shop / "ws" / LEDGER)
        else:
            (shop / "ws" / LEDGER).write_bytes(damage)
        with pytest.raises(DataError, match=r"ledger\.parquet .*restore it from git"):
            _pull(shop)
    (shop / "ws" / LEDGER).unlink()
    (shop / "ws" / RAW / ".forgotten").write_text("garbage\n")
    with pytest.raises(DataError, match="must hold one SHA-256 a line"):
        _pull(shop)
