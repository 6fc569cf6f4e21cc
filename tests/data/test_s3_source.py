"""A bucket as a source, against a real object store, through a network that fails."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from buckets import object_store
from disks import small_disk

from v2meow.data import ledger
from v2meow.data.manifest import RAW, DataError
from v2meow.data.pull import pull
from v2meow.data.source import open_source

pytestmark = pytest.mark.slow
boto3 = pytest.importorskip("boto3")

BUSY = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Faults:
    """A TCP proxy before the store: `cuts` are the bytes of each of the next answers after which it breaks off;
    with `busy` above 0 so many connections are answered 503."""

    def __init__(self, port: int) -> None:
        self._port, self.cuts, self.busy, self.connections = port, [], 0, 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with client:
            if self.busy > 0:
                self.busy -= 1
                client.recv(1 << 16)
                client.sendall(BUSY)
                return
            with socket.create_connection(("127.0.0.1", self._port)) as server:
                threading.Thread(target=_copy, args=(client, server), daemon=True).start()
                passed = 0
                while data := _received(server):
                    passed += len(data)
                    if self.cuts and passed > self.cuts[0]:
                        self.cuts.pop(0)
                        for end in (client, server):
                            end.shutdown(socket.SHUT_RDWR)  # closing alone says nothing while a thread reads
                        return  # both connections close in the middle of an answer
                    client.sendall(data)


def _received(from_: socket.socket) -> bytes:
    try:
        return from_.recv(1 << 14)
    except OSError:
        return b""


def _copy(from_: socket.socket, to: socket.socket) -> None:
    try:
        while data := _received(from_):
            to.sendall(data)
    except OSError:
        pass


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Iterator[dict[str, str]]:
    with object_store(tmp_path_factory.mktemp("store")) as found:
        yield found


@pytest.fixture
def bucket(store, monkeypatch) -> Iterator[tuple[object, Faults]]:
    """A client of the empty bucket `bucket`, and the failing network that everybody else sees it through."""
    for name, value in store.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    for found in client.list_objects_v2(Bucket="bucket").get("Contents", ()):
        client.delete_object(Bucket="bucket", Key=found["Key"])
    faults = Faults(int(store["AWS_ENDPOINT_URL"].rpartition(":")[2]))
    monkeypatch.setenv("AWS_ENDPOINT_URL", faults.address)
    yield client, faults
    faults.close()


def _noise(seed: int, size: int) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def _raw(workspace) -> dict[str, bytes]:
    folder = workspace / RAW
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_part_of_a_bucket_is_pulled_and_followed(bucket, tmp_path):
    """More objects than a page holds, odd keys, renamed, replaced and deleted ones: all that a growing bucket does."""
    client, _ = bucket
    keys = [f"shop/{n:04d}.json" for n in range(1010)] + ["shop/ü $(x)/a b.mp4", "shop/b.mp4", "shop/sub/", "other.mp4"]
    for key in keys:
        client.put_object(Bucket="bucket", Key=key, Body=key.encode())
    source = open_source("s3://bucket/shop/")
    assert pull(tmp_path, source).added == 1012
    assert _raw(tmp_path)["shop/ü $(x)/a b.mp4"] == "shop/ü $(x)/a b.mp4".encode()
    assert pull(tmp_path, source).unchanged == 1012
    client.put_object(Bucket="bucket", Key="shop/b.mp4", Body=b"second version")
    client.put_object(Bucket="bucket", Key="shop/c.mp4", Body="shop/ü $(x)/a b.mp4".encode())
    client.delete_object(Bucket="bucket", Key="shop/ü $(x)/a b.mp4")
    pulled = pull(tmp_path, source)
    assert (pulled.replaced, pulled.same_content, pulled.gone, pulled.unchanged) == (1, 1, 1, 1010)
    assert _raw(tmp_path)["shop/b.mp4"] == b"second version"
    assert "shop/c.mp4" in _raw(tmp_path) and not any("a b.mp4" in name for name in _raw(tmp_path))
    assert "s3://bucket/shop/c.mp4" in ledger.sources(tmp_path).values()


def test_connections_that_break_are_taken_up_where_they_broke(bucket, tmp_path):
    """A video of gigabytes over a bad line would else never arrive, or arrive with a hole."""
    client, faults = bucket
    content = _noise(0, 3_000_000)
    client.put_object(Bucket="bucket", Key="s/a.mp4", Body=content)
    client.put_object(Bucket="bucket", Key="s/empty.mp4", Body=b"")
    source = open_source("s3://bucket/s")
    listed = {found.key: found for found in source.objects()}
    faults.cuts, faults.busy = [1_500_000, 900_000, 200], 0
    source.fetch(listed["a.mp4"], tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == content and not faults.cuts
    faults.busy = 3
    assert pull(tmp_path / "ws", open_source("s3://bucket/s")).added == 2
    assert _raw(tmp_path / "ws") == {"s/a.mp4": content, "s/empty.mp4": b""}


def test_halves_of_two_versions_never_become_one_file(bucket, tmp_path):
    """An object that is replaced between listing and download, or in the middle of it, of the same size."""
    client, faults = bucket
    old, new = _noise(1, 2_000_000), _noise(2, 2_000_000)
    client.put_object(Bucket="bucket", Key="s/a.mp4", Body=old)
    source: Any = open_source("s3://bucket/s")
    fetch, calls = source._continue, []

    def meddling(wanted, part, have):
        calls.append(have)
        if len(calls) == 2:
            client.put_object(Bucket="bucket", Key="s/a.mp4", Body=new)
        fetch(wanted, part, have)

    source._continue = meddling
    faults.cuts = [1_000_000]
    pulled = pull(tmp_path, source)
    assert _raw(tmp_path) == {"s/a.mp4": new} and pulled.skipped == {} and calls[1] > 0
    client.delete_object(Bucket="bucket", Key="s/a.mp4")
    client.put_object(Bucket="bucket", Key="s/b.mp4", Body=old)
    listed = list(source.objects())
    source.objects = lambda: iter([*listed, *(_missing(each) for each in listed)])
    assert list(pull(tmp_path, source).skipped) == ["missing.mp4"]


def _missing(found):
    return type(found)(key="missing.mp4", version=found.version, size=found.size)


@contextmanager
def _disk(tmp_path):
    with small_disk(tmp_path / "ws", 1024) as folder:
        yield folder


def test_a_full_disk_keeps_what_came_before(bucket, tmp_path):
    """The ledger says what is there, in one line of error, and the next call goes on."""
    client, _ = bucket
    client.put_object(Bucket="bucket", Key="s/a.mp4", Body=_noise(3, 400_000))
    client.put_object(Bucket="bucket", Key="s/b.mp4", Body=_noise(4, 900_000))
    with _disk(tmp_path) as workspace:
        with pytest.raises(OSError, match="No space left") as error:
            pull(workspace, open_source("s3://bucket/s"))
        assert "\n" not in str(error.value)
        assert set(_raw(workspace)) == {"s/a.mp4"}
        assert [row.key for row in ledger.read(workspace)] == ["a.mp4"]
        client.put_object(Bucket="bucket", Key="s/b.mp4", Body=_noise(5, 200_000))
        assert pull(workspace, open_source("s3://bucket/s")).added == 1


def test_a_bucket_that_is_not_there_changes_nothing(bucket, tmp_path):
    """A misspelt bucket or a wrong key must say so before anything is deleted."""
    client, _ = bucket
    client.put_object(Bucket="bucket", Key="s/a.mp4", Body=b"a")
    pull(tmp_path, open_source("s3://bucket/s"))
    with pytest.raises(DataError, match=r"s3://bucke/s cannot be listed: NoSuchBucket"):
        pull(tmp_path, open_source("s3://bucke/s"))
    with pytest.raises(DataError, match="stand in the environment"):
        open_source("s3://me:secret@bucket/s")
    assert set(_raw(tmp_path)) == {"s/a.mp4"}
