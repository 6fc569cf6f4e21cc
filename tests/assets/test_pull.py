"""Nothing appears under its name before it is proven whole, whatever the network does; afterwards none is needed."""

import hashlib
import io
import random
import socket
import subprocess
import sys
from http.client import HTTPMessage
from urllib.error import HTTPError
from urllib.request import Request

import pytest
from disks import small_disk

from v2meow import assets
from v2meow.assets import AssetError, fetch, sources

CONTENT = random.Random(0).randbytes(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
STORED = "/storage/weights.bin"


@pytest.fixture
def asset(site, declare):
    """One large file at the hub, of which nothing is known beforehand."""
    site.hub("owner/tiny", "weights.bin", CONTENT)
    return declare({"weights.bin": {}}, hub="owner/tiny")


def left_in(store):
    """Names of all files of the asset in the store."""
    return sorted(path.name for path in (store / "tiny").iterdir())


def test_what_was_pulled_is_there_when_the_network_is_gone(site, asset, monkeypatch):
    """A training machine is often offline: loading must not ask anyone."""
    assert assets.pull([asset]) == [assets.Pulled("tiny", fetched=1, present=0)]
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert (assets.folder("tiny") / "weights.bin").read_bytes() == CONTENT
    assert assets.fingerprint("tiny") == {"weights.bin": DIGEST}
    assert assets.pull([asset]) == [assets.Pulled("tiny", fetched=0, present=1)]


def test_a_broken_transfer_goes_on_where_it_broke_off(site, asset, store):
    site.faults[STORED] = ["truncated", "truncated"]
    assets.pull([asset])
    assert (store / "tiny" / "weights.bin").read_bytes() == CONTENT
    assert site.ranges(STORED) == [None, "bytes=150000-", "bytes=225000-"]


def test_what_always_breaks_off_leaves_nothing_under_its_name_and_is_resumed_later(site, asset, store):
    site.faults[STORED] = ["truncated"] * 3
    with pytest.raises(AssetError, match=r"broke off after 262500 of 300000 bytes.*nothing is kept as weights.bin"):
        assets.pull([asset])
    with pytest.raises(AssetError, match=r"weights.bin is missing"):
        assets.folder("tiny")
    assets.pull([asset])
    assert (site.ranges(STORED)[-1], left_in(store)) == ("bytes=262500-", ["asset.json", "weights.bin"])


def test_wrong_bytes_are_refused_and_not_kept(site, asset, store):
    """A damaged transfer of the right length would otherwise become silently wrong features."""
    site.faults[STORED] = ["wrong"]
    with pytest.raises(AssetError, match=rf"has the SHA-256 [0-9a-f]{{64}} instead of {DIGEST}: nothing of it is kept"):
        assets.pull([asset])
    assert left_in(store) == ["asset.json"]
    assets.pull([asset])
    assert assets.folder("tiny") == store / "tiny"


def test_a_file_that_changed_between_its_two_parts_is_fetched_anew(site, asset, store):
    (store / "tiny").mkdir(parents=True)
    (store / "tiny" / ".weights.bin.part").write_bytes(b"x" * 1000)
    assets.pull([asset])
    assert (store / "tiny" / "weights.bin").read_bytes() == CONTENT
    assert site.ranges(STORED) == ["bytes=1000-", None]


def test_parts_are_not_put_together_without_a_hash_to_prove_them(site, declare, store):
    """Two halves of two versions have the right length together."""
    site.files["/mirror/tiny/weights.bin"] = CONTENT
    site.faults["/mirror/tiny/weights.bin"] = ["truncated"]
    assets.pull([declare({"weights.bin": {}}, hub="owner/tiny")], f"{site.address}/mirror")
    assert site.ranges("/mirror/tiny/weights.bin") == [None, "bytes=150000-", None]
    assert (store / "tiny" / "weights.bin").read_bytes() == CONTENT


def test_what_is_left_of_a_longer_file_does_no_harm(site, asset, store):
    (store / "tiny").mkdir(parents=True)
    (store / "tiny" / ".weights.bin.part").write_bytes(b"x" * 400_000)
    assets.pull([asset])
    assert (store / "tiny" / "weights.bin").read_bytes() == CONTENT


def test_a_busy_server_is_asked_again(site, asset):
    site.faults["/owner/tiny/resolve/main/weights.bin"] = ["503", "429"]
    assets.pull([asset])
    assert assets.fingerprint("tiny") == {"weights.bin": DIGEST}


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"size": 299_999}, "has 300000 bytes instead of 299999"),
        ({"sha256": "00000000"}, f"has the SHA-256 {DIGEST} instead of 00000000"),
        ({"sha256": "0" * 64}, f"has the SHA-256 {DIGEST} instead of 0000"),
    ],
)
def test_what_the_catalogue_knows_of_a_file_must_hold(site, declare, store, facts, message):
    site.hub("owner/tiny", "weights.bin", CONTENT)
    with pytest.raises(AssetError, match=message):
        assets.pull([declare({"weights.bin": facts}, hub="owner/tiny")])
    assert left_in(store) == ["asset.json"]


def test_the_token_is_shown_to_the_hub_alone(site, asset, monkeypatch):
    """The storage that the hub redirects to belongs to somebody else."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    site.moved["/owner/tiny/resolve/main/weights.bin"] = site.address.replace("127.0.0.1", "localhost") + STORED
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    assets.pull([asset])
    assert [token for _, _, token in site.asked] == ["Bearer hf_secret", None]


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_a_redirection_to_another_scheme_is_not_followed(site, asset, target):
    site.moved["/owner/tiny/resolve/main/weights.bin"] = target
    with pytest.raises(AssetError, match="redirects to an address that is not followed"):
        assets.pull([asset])


def test_a_redirection_never_leaves_encryption():
    """Whoever sits on the way could otherwise put other bytes in the place of those without a known hash."""
    redirections = sources._Redirections({})
    asked = Request("https://host/a")
    with pytest.raises(HTTPError, match="another scheme"):
        redirections.redirect_request(asked, io.BytesIO(), 302, "Found", HTTPMessage(), "http://host/a")
    assert redirections.redirect_request(asked, io.BytesIO(), 302, "Found", HTTPMessage(), "https://other/a")


def test_a_gated_file_says_what_opens_it(site, asset):
    site.faults["/owner/tiny/resolve/main/weights.bin"] = ["401"]
    with pytest.raises(AssetError, match=r"refused \(status 401\): accept its terms on the hub and set HF_TOKEN"):
        assets.pull([asset])


def test_without_a_network_all_that_is_wanted_is_listed_with_place_and_source(declare, store, monkeypatch):
    """Whoever carries files in by hand needs the whole list at once."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{(port := taken.getsockname()[1])}")
    asset = declare({"a.json": {}, "b.bin": {}}, hub="owner/tiny")
    with pytest.raises(assets.UnreachableError) as caught:
        assets.pull([asset])
    head, _, *wanted = str(caught.value).splitlines()
    assert head.startswith(f"there is no connection to 127.0.0.1:{port}")
    base = f"http://127.0.0.1:{port}/owner/tiny/resolve/main"
    assert wanted == [f"  {store / 'tiny' / name} is missing, from {base}/{name}" for name in ("a.json", "b.bin")]


def test_two_processes_that_pull_the_same_fetch_it_once(site, asset, tmp_path):
    declared = tmp_path / "assets.yaml"
    declared.write_text(
        "tiny: {about: a, licence: MIT, commercial: true, hub: owner/tiny, files: {weights.bin: {}}}", encoding="utf-8"
    )
    site.faults[STORED] = ["slow"]
    code = "import sys; from pathlib import Path; from v2meow import assets; "
    code += "print(assets.pull([assets.find('tiny', Path(sys.argv[1]))])[0].fetched)"
    command = [sys.executable, "-c", code, str(declared)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    fetched = sorted(process.communicate(timeout=60)[0].strip() for process in running)
    assert (fetched, len(site.ranges(STORED))) == (["0", "1"], 1)
    assert assets.fingerprint("tiny") == {"weights.bin": DIGEST}


def test_a_full_disk_is_told_by_the_file_and_leaves_nothing_under_its_name(site, asset, tmp_path, monkeypatch):
    with small_disk(tmp_path / "disk") as disk:
        monkeypatch.setenv(assets.FOLDER_VARIABLE, str(disk))
        with pytest.raises(OSError, match=f"could not write {disk / 'tiny' / 'weights.bin'}: No space left"):
            assets.pull([asset])
        assert not (disk / "tiny" / "weights.bin").exists()


@pytest.mark.parametrize(("asked", "given"), [("7", 7.0), ("1000", 60.0), ("", 0.0)])
def test_a_server_that_asks_for_patience_gets_it_within_bounds(site, asset, monkeypatch, asked, given):
    slept = []
    monkeypatch.setattr(fetch.time, "sleep", slept.append)
    site.faults[STORED] = [f"503 {asked}"]
    assets.pull([asset])
    assert slept == [given]
