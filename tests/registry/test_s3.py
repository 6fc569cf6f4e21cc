"""A registry in a bucket is the same registry: conditional writes decide, lost answers do not, bundles come whole."""

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from candidates import MODEL, attest, candidate, register, register_many
from faults import Faults

from v2meow import bundle, release
from v2meow.registry import ConflictError, Registry, RegistryError, StoreError
from v2meow.registry import s3 as module
from v2meow.registry.place import cache_of
from v2meow.registry.s3 import Bucket, S3Store
from v2meow.registry.store import CachedStore, FolderStore


@pytest.fixture
def distant(bucket: str) -> Registry:
    return Registry(bucket)


@pytest.fixture
def quick(monkeypatch):
    """Repeats without waiting."""
    monkeypatch.setattr(module, "_WAIT_S", 0.0)


def test_the_whole_life_of_a_version_is_the_same_in_a_bucket(distant, tmp_path):
    names = register_many(distant, tmp_path, 3)
    for name in names[:2]:
        distant.promote(MODEL, name, "staging", actor="ada")
        attest(distant, tmp_path, name)
        distant.promote(MODEL, name, "production", actor="ada")
    distant.rollback(MODEL, "production", actor="ada")
    distant.retire(MODEL, "v3", actor="ada", reason="old")
    other = Registry(distant.location)
    state = other.state(MODEL)
    assert state == distant.state(MODEL)
    assert state.stages == {"production": "v1", "staging": "v2"}
    assert other.models() == [MODEL]
    assert (other.resolve("v2meow@production") / "recipe.yaml").read_text() == "content 0"
    assert other.read(state.versions["v2"], "recipe.yaml") == b"content 1"
    with pytest.raises(ConflictError, match="held by v2 now, where v1 was expected"):
        distant.promote(MODEL, "v1", "staging", actor="ada", expected_previous="v1")
    with pytest.raises(RegistryError, match=r"no model 'tune' in s3://bucket/.*; there are v2meow"):
        other.state("tune")


def test_a_name_is_taken_once_by_sixteen_who_want_it(bucket):
    stores = [S3Store(shared, "log") for shared in [Bucket(bucket)] * 16]
    with ThreadPoolExecutor(16) as threads:
        won = list(threads.map(lambda pair: pair[1].put_if_absent("1", b"%d" % pair[0]), enumerate(stores)))
    assert sum(won) == 1
    assert stores[0].get_all(["1"]) == [b"%d" % won.index(True)]


# A bad network


@pytest.mark.parametrize("fault", ["lost", "cut", "503", "500", "409"])
def test_an_event_whose_answer_got_lost_is_written_once_and_known_as_ours(
    fault, faults: Faults, quick, bucket, tmp_path
):
    """Taken for another's, the repeated request would find the name taken and add a second event."""
    registry = Registry(bucket)
    register_many(registry, tmp_path, 1)
    faults.planned["PUT"] = [fault]
    assert registry.promote(MODEL, "v1", "staging", actor="ada").number == 2
    assert len(Registry(bucket).state(MODEL).history) == 2


def test_a_number_that_another_took_while_our_answer_was_lost_is_the_others(faults: Faults, quick, bucket):
    store = S3Store(Bucket(bucket), "log")
    assert store.put_if_absent("1", b"theirs")
    faults.planned["PUT"] = ["lost", "lost", "503"]
    assert not store.put_if_absent("1", b"ours")
    assert store.get_all(["1"]) == [b"theirs"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_reading_outlasts_a_while_of_trouble(method, faults: Faults, quick, bucket, tmp_path):
    register_many(Registry(bucket), tmp_path, 1)
    shutil.rmtree(cache_of(bucket), ignore_errors=True)
    faults.planned[method] = ["503", "cut", "500", "503"]
    assert Registry(bucket).resolve("v2meow@v1").is_dir()


def test_a_store_that_is_away_is_one_line_that_names_it(bucket, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_WAIT_S", 0.001)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match=rf"{bucket}.* cannot be reached"):
        Registry(bucket).state(MODEL)
    with pytest.raises(StoreError, match="cannot be reached"):
        register(Registry(bucket), candidate(tmp_path / "a", "a"))


def test_wrong_keys_and_a_missing_bucket_are_told_at_once(bucket, monkeypatch):
    """Trying again for long what cannot succeed looks like a hang."""
    begun = time.monotonic()
    with pytest.raises(StoreError, match="there is no such bucket"):
        Registry("s3://nowhere/models").state(MODEL)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreError, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        Registry(bucket).state(MODEL)
    assert time.monotonic() - begun < 5.0


# What is kept here


def test_an_event_is_fetched_once(faults: Faults, bucket, tmp_path):
    """A log of thousands must not be read over the network for every request."""
    writer = Registry(bucket)
    register_many(writer, tmp_path, 3)
    shutil.rmtree(cache_of(bucket))
    for expected in (1 + 3, 1):  # the listing, and each event the first time only
        faults.asked.clear()
        assert len(Registry(bucket).state(MODEL).history) == 3
        assert faults.count("GET") == expected


def test_a_damaged_local_copy_of_an_event_is_fetched_again(distant, tmp_path):
    register_many(distant, tmp_path, 1)
    (kept,) = (distant.root / MODEL / "log").iterdir()
    content = kept.read_bytes()
    for damage in (content[:-5], b"", content.replace(b"register", b"rollback")):
        kept.write_bytes(damage)
        assert len(Registry(distant.location).state(MODEL).history) == 1
        assert kept.read_bytes() == content


def test_what_was_put_is_not_fetched(tmp_path):
    distant, near = FolderStore(tmp_path / "distant"), tmp_path / "near"
    store = CachedStore(distant, near)
    assert store.put_if_absent("1", b"one") and not store.put_if_absent("1", b"two")
    (tmp_path / "distant" / "1").unlink()
    assert store.get_all(["1"]) == [b"one"]
    with pytest.raises(FileNotFoundError, match="2"):
        store.get_all(["1", "2"])


# Bundles


def test_a_bundle_is_fetched_whole_by_many_at_once(distant, children, tmp_path, monkeypatch):
    """Processes of one machine share the folder of what was fetched; none may see half a bundle."""
    folder = candidate(tmp_path / "a", "a")
    parts = {f"part{i}/weights.bin": folder / f"{i}.bin" for i in range(6)}
    for number, path in enumerate(parts.values()):
        path.write_bytes(os.urandom(1) * 300_000 + b"%d" % number)
    shutil.rmtree(folder / "bundle")
    digest = bundle.assemble(parts, folder / "bundle")
    (folder / "verdict.json").write_text(json.dumps({"passed": True, "bundle": digest}))
    register(distant, folder)
    shutil.rmtree(distant.root / MODEL / "bundles")
    with ThreadPoolExecutor(6) as threads:
        found = set(threads.map(lambda _: Registry(distant.location).resolve("v2meow@v1"), range(6)))
    assert found == {distant.root / MODEL / "bundles" / digest}
    assert bundle.verify(found.pop()) == digest
    assert [path.name for path in (distant.root / MODEL / "bundles").iterdir() if path.is_dir()] == [digest]


def test_files_that_two_versions_share_are_sent_once(faults: Faults, bucket, tmp_path):
    """Frozen encoders are most of a bundle, and the same in every version."""
    registry = Registry(bucket)
    for number in (1, 2):
        folder = candidate(tmp_path / str(number), f"recipe {number}")
        (folder / "encoder.bin").write_bytes(b"frozen" * 1000)
        shutil.rmtree(folder / "bundle")
        parts = {name: folder / name for name in ("recipe.yaml", "encoder.bin")}
        digest = bundle.assemble(parts, folder / "bundle")
        (folder / "verdict.json").write_text(json.dumps({"passed": True, "bundle": digest}))
        register(registry, folder)
    sent = [path for method, path in faults.asked if method == "PUT" and "/files/" in path]
    assert len(sent) == len(set(sent)) == 3


def test_a_damaged_or_missing_file_of_a_bundle_is_named_and_mended(distant, tmp_path):
    folder = candidate(tmp_path / "a", "a")
    register(distant, folder)
    (key,) = Bucket(distant.location).keys(f"{MODEL}/files/")
    shutil.rmtree(distant.root)
    Bucket(distant.location).put(key, b"b")
    with pytest.raises(RegistryError, match=rf"{key} does not hold what its name says: delete it; registering"):
        distant.resolve("v2meow@v1")
    assert not list((distant.root / MODEL / "bundles").glob("?*/*"))
    Bucket(distant.location)._client.delete_object(Bucket="bucket", Key=f"{distant.location[12:]}/{key}")
    with pytest.raises(RegistryError, match=rf"cannot be used: .*{key} is missing"):
        distant.promote(MODEL, "v1", "staging", actor="ada")
    assert register(distant, folder).name == "v1"
    distant.promote(MODEL, "v1", "staging", actor="ada")
    shutil.rmtree(distant.root)
    assert (distant.resolve("v2meow@staging") / "recipe.yaml").read_text() == "a"


def test_a_registration_that_broke_off_leaves_no_version(faults: Faults, quick, bucket, tmp_path):
    """The list of a bundle's files is put after them, and the event after the list."""
    folder = candidate(tmp_path / "a", "a")
    for plan in (["403"], ["", "403"], ["", "403"]):  # the file, the list, and the event once the file is there
        faults.planned["PUT"] = plan
        with pytest.raises(StoreError, match="is refused"):
            register(Registry(bucket), folder)
        assert Registry(bucket).models() == []
    assert register(Registry(bucket), folder).name == "v1"


# Who uses it


def test_a_model_is_found_by_the_registry_that_the_environment_names(distant, tmp_path, monkeypatch):
    """A service has no workspace: the address is all that it is given."""
    register_many(distant, tmp_path, 1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(release.REGISTRY_VARIABLE, distant.location)
    assert release.find_model("v2meow@v1", None) == distant.resolve("v2meow@v1")
    assert release.registry() is release.registry(Path("anywhere"))
