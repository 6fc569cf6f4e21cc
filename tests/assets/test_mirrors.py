"""A mirror is a folder, a web server or a bucket that holds NAME/FILE; a copy of a store brings its hashes along."""

import socket
from collections.abc import Iterator

import pytest
from buckets import KEYS, object_store  # of both stores: boto3 remembers the first that it found

from v2meow import assets
from v2meow.assets import AssetError

NO_SUCH_KEY = b"<Error><Code>NoSuchKey</Code><Message>no</Message></Error>"


@pytest.fixture
def asset(declare):
    """Nothing is known of its files, and its own source is never asked."""
    return declare({"a.json": {}, "weights.bin": {}}, hub="owner/tiny")


@pytest.fixture
def copied(asset, store, tmp_path, monkeypatch):
    """A mirror that is a copy of a store which has the asset."""
    made = tmp_path / "plain" / "tiny"
    made.mkdir(parents=True)
    (made / "a.json").write_text("{}")
    (made / "weights.bin").write_bytes(b"weights")
    assets.pull([asset], str(made.parent))
    monkeypatch.setenv(assets.FOLDER_VARIABLE, str(tmp_path / "second"))
    return store


def test_a_folder_of_plain_files_is_a_mirror(copied, asset):
    assert assets.pull([asset], str(copied.parent / "plain"))[0].fetched == 2
    assert (assets.folder("tiny") / "weights.bin").read_bytes() == b"weights"


def test_a_copy_of_a_store_is_a_mirror_that_proves_its_files(copied, asset):
    """The hashes were taken when the files came from their publisher; a mirror may have rotted since."""
    (copied / "tiny" / "weights.bin").write_bytes(b"weightS")
    with pytest.raises(AssetError, match=r"weights.bin has the SHA-256 .* instead of .*: nothing of it is kept"):
        assets.pull([asset], str(copied))
    assert not (assets.root() / "tiny" / "weights.bin").exists()


def test_a_mirror_without_a_file_names_it(copied, asset):
    (copied / "tiny" / "a.json").unlink()
    with pytest.raises(AssetError, match=f"{copied / 'tiny' / 'a.json'} does not exist"):
        assets.pull([asset], str(copied))


def test_a_mirror_on_the_web_can_be_resumed_by_its_record(copied, asset, site):
    for path in (copied / "tiny").iterdir():
        site.files[f"/m/tiny/{path.name}"] = path.read_bytes()
    site.faults["/m/tiny/weights.bin"] = ["truncated"]
    assets.pull([asset], f"{site.address}/m/")
    assert (assets.folder("tiny") / "weights.bin").read_bytes() == b"weights"
    assert site.ranges("/m/tiny/weights.bin") == [None, "bytes=3-"]


@pytest.mark.parametrize("mirror", ["file:///srv/m", "ftp://host/m", "https://", "https://host/m?key=1"])
def test_what_is_no_mirror_is_refused(asset, mirror):
    with pytest.raises(AssetError, match=r"a mirror is a folder, http\(s\)://HOST/PATH or s3://BUCKET/PREFIX"):
        assets.pull([asset], mirror)


def test_a_password_in_a_mirrors_address_is_refused_and_not_repeated(asset):
    with pytest.raises(AssetError, match="must not hold a user or a password") as caught:
        assets.pull([asset], "https://me:hunter2@host/m")
    assert "hunter2" not in str(caught.value)


@pytest.fixture
def simple_bucket(site, monkeypatch) -> str:
    """Just enough of S3 for reading: any web server with ranges that says NoSuchKey in S3's words."""
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": site.address}.items():
        monkeypatch.setenv(name, value)
    site.absent = NO_SUCH_KEY
    return "s3://bucket/some/prefix"


def test_a_bucket_is_read_through_boto3_and_resumed(copied, asset, site, simple_bucket):
    for path in (copied / "tiny").iterdir():
        site.files[f"/bucket/some/prefix/tiny/{path.name}"] = path.read_bytes()
    site.faults["/bucket/some/prefix/tiny/weights.bin"] = ["truncated"]
    assets.pull([asset], simple_bucket)
    assert (assets.folder("tiny") / "weights.bin").read_bytes() == b"weights"
    assert site.ranges("/bucket/some/prefix/tiny/weights.bin") == [None, "bytes=3-"]


def test_what_a_bucket_lacks_is_named(asset, simple_bucket):
    with pytest.raises(AssetError, match=r"s3://bucket/some/prefix/tiny/a.json does not exist \(NoSuchKey\)"):
        assets.pull([asset], simple_bucket)


def test_a_bucket_that_cannot_be_reached_lists_what_is_wanted(asset, simple_bucket, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(assets.UnreachableError, match=r"(?s)no connection to s3://bucket.*weights.bin is missing"):
        assets.pull([asset], simple_bucket)


@pytest.fixture
def seaweed(tmp_path, monkeypatch) -> Iterator[str]:
    """A prefix of a bucket in a real object store."""
    with object_store(tmp_path) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield "s3://bucket/some/prefix"


def test_an_object_store_is_a_mirror(copied, asset, seaweed):
    import boto3

    client = boto3.client("s3")
    for path in (copied / "tiny").iterdir():
        client.upload_file(str(path), "bucket", f"some/prefix/tiny/{path.name}")
    part = assets.root() / "tiny" / ".weights.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"wei")
    assert assets.pull([asset], seaweed)[0].fetched == 2
    assert (assets.folder("tiny") / "weights.bin").read_bytes() == b"weights"
    client.delete_object(Bucket="bucket", Key="some/prefix/tiny/a.json")
    (assets.root() / "tiny" / "a.json").unlink()
    with pytest.raises(AssetError, match=r"a.json does not exist \(NoSuchKey\)"):
        assets.pull([asset], seaweed)
