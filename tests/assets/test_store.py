"""An asset that is used is the asset that was verified, and asking for it is cheap."""

import os

import pytest

from v2meow import assets
from v2meow.assets import AssetError
from v2meow.assets import store as storing


@pytest.fixture
def pulled(tmp_path, declare):
    """An asset in the store, from a local folder."""
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "a.json").write_text("{}")
    (tmp_path / "made" / "b.bin").write_bytes(b"weights")
    asset = declare({"a.json": None, "b.bin": {"size": 7}}, folder="made")
    assets.pull([asset])
    return asset


def test_a_folder_is_not_hashed_again_while_nothing_changed(pulled, monkeypatch):
    """Hashing gigabytes at every start of every worker would cost more than the start itself."""
    monkeypatch.setattr(storing, "sha256", lambda path: pytest.fail(f"{path} was hashed"))
    assert assets.folder("tiny") == assets.root() / "tiny"


def test_a_file_that_changed_is_damaged(pulled, store):
    (store / "tiny" / "b.bin").write_bytes(b"WEIGHTS")
    with pytest.raises(
        AssetError, match=r"(?s)b.bin is damaged: its SHA-256 is .* instead of .*v2meow assets pull tiny"
    ):
        assets.folder("tiny")
    assert assets.pull([pulled])[0].fetched == 1
    assert (assets.folder("tiny") / "b.bin").read_bytes() == b"weights"


def test_a_change_of_the_size_needs_no_hash(pulled, store):
    (store / "tiny" / "b.bin").write_bytes(b"weight")
    with pytest.raises(AssetError, match=r"b.bin is damaged: it has 6 bytes instead of 7"):
        assets.folder("tiny")


def test_only_hashing_shows_a_change_that_hides_its_time(pulled, store):
    """Bit rot changes neither size nor time; `verify` is for that."""
    path = store / "tiny" / "b.bin"
    before = path.stat()
    path.write_bytes(b"weighTs")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not [state for state in assets.conditions(pulled) if state.problem]
    assert [state.path for state in assets.conditions(pulled, rehash=True) if state.problem] == [path]


def test_a_touched_file_is_hashed_once_more_and_then_known(pulled, store, monkeypatch):
    """A copy of a store has other times."""
    os.utime(store / "tiny" / "b.bin")
    assets.folder("tiny")
    monkeypatch.setattr(storing, "sha256", lambda path: pytest.fail(f"{path} was hashed"))
    assets.folder("tiny")


def test_files_that_were_put_there_by_hand_are_verified_and_adopted(store, monkeypatch):
    """The offline way: the catalogue knows their hashes."""
    place = store / "w2v-bert-2.0"
    place.mkdir(parents=True)
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        (place / name).write_bytes(b"not it")
    with pytest.raises(AssetError) as caught:
        assets.folder("w2v-bert-2.0")
    for name, size in (("config.json", 1874), ("preprocessor_config.json", 275), ("model.safetensors", 2322063736)):
        assert f"{place / name} is damaged: it has 6 bytes instead of {size}, from https://huggingface" in str(
            caught.value
        )


def test_a_known_beginning_of_a_hash_is_held_against_a_file_put_there_by_hand(store):
    (store / "encodec-48khz").mkdir(parents=True)
    (store / "encodec-48khz" / "encodec_48khz-7e698e3e.th").write_bytes(b"not it")
    with pytest.raises(AssetError, match=r"is damaged: its SHA-256 is .* instead of 7e698e3e, from https://dl.fbai"):
        assets.folder("encodec-48khz")


def test_a_damaged_record_says_so(pulled, store):
    (store / "tiny" / "asset.json").write_text("{")
    with pytest.raises(AssetError, match=r"asset.json is not valid JSON.*delete it and pull tiny again"):
        assets.folder("tiny")


def test_a_record_of_something_else_says_so(pulled, store):
    (store / "tiny" / "asset.json").write_text('{"format": 1}')
    with pytest.raises(AssetError, match=r"asset.json is not a record of the asset tiny"):
        assets.folder("tiny")


def test_a_new_hash_in_the_catalogue_makes_the_old_file_damaged(pulled, declare):
    """A catalogue that moves on to a new version must not go on with the old one in silence."""
    newer = declare({"a.json": None, "b.bin": {"sha256": "0" * 64}}, folder="made")
    states = {state.file.name: state.problem for state in assets.conditions(newer)}
    assert states["a.json"] == ""
    assert states["b.bin"].endswith(f"instead of {'0' * 64}")
