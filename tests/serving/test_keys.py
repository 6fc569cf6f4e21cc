"""Keys: only hashes are kept, limits hold, and whatever is wrong with the file lets nobody in."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving import keys
from serving.keys import Doorkeeper, KeyFileError
from serving.problems import Problem


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def _create(file: Path, name: str = "alice", *, per_minute: int = 60, concurrent: int = 4, days: float | None = None):
    return keys.create(file, name, per_minute=per_minute, concurrent=concurrent, days=days)


def _name(door: Doorkeeper, secret: str) -> str:
    key = door.admit(secret)
    assert key is not None
    return key.name


def _refused(status: int, kind: str):
    return pytest.raises(Problem, check=lambda error: (error.status, error.kind) == (status, kind))


def test_the_file_holds_hashes_alone_and_only_its_owner_reads_it(file):
    secret = _create(file)
    assert len(secret) > 40 and _create(file, "bob") != secret
    assert secret not in file.read_text() and secret.removeprefix("v2m_") not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert _name(Doorkeeper(file), secret) == "alice"


def test_a_file_that_only_its_owner_may_read_stays_so_while_it_is_written(file, monkeypatch):
    """Between writing it and restricting it others could read it."""
    seen, replace = [], Path.replace
    monkeypatch.setattr(Path, "replace", lambda *paths: (seen.append(paths[0].stat().st_mode & 0o777), replace(*paths)))
    _create(file)
    assert seen == [0o600]


def test_what_is_no_key_is_refused(file):
    secret = _create(file)
    door = Doorkeeper(file)
    with _refused(401, "key-missing"):
        door.admit(None)
    for wrong in ("", "v2m_", secret[:-1], secret + "x", secret.upper(), "ключ", "a" * 100_000):
        with _refused(401, "key-unknown"):
            door.admit(wrong)


def test_a_key_ends_with_its_time(file):
    secret = _create(file, days=0.1 / 86400)
    door = Doorkeeper(file)
    assert door.admit(secret)
    time.sleep(0.12)
    with _refused(401, "key-expired"):
        door.admit(secret)


def test_a_revoked_key_is_refused_by_a_server_that_runs(file):
    secret, other = _create(file), _create(file, "bob")
    door = Doorkeeper(file)
    assert door.admit(secret)
    keys.revoke(file, "alice")
    with _refused(401, "key-unknown"):
        door.admit(secret)
    assert door.admit(other) and file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(KeyFileError, match="has no key alice: it has bob"):
        keys.revoke(file, "alice")


def test_who_asks_too_often_is_told_when_to_come_back(file):
    secret, other = _create(file, per_minute=3), _create(file, "bob")
    door = Doorkeeper(file)
    for _ in range(3):
        door.admit(secret)
    with pytest.raises(Problem) as refused:
        door.admit(secret)
    assert refused.value.kind == "too-often" and 50 <= int(refused.value.headers["Retry-After"]) <= 60
    assert door.admit(other)  # nobody else pays for it
    assert door.recognise(secret)  # looking is free


def test_a_key_has_so_many_generations_under_way_and_no_more(file):
    secret = _create(file, concurrent=2)
    door = Doorkeeper(file)
    key = door.admit(secret)
    first, _ = door.begin(key), door.begin(key)
    with _refused(429, "too-many-at-once"):
        door.begin(key)
    first()
    first()  # twice is once
    door.begin(key)
    with _refused(429, "too-many-at-once"):
        door.begin(key)


@pytest.mark.parametrize(
    "content",
    [None, "", "no JSON", "[]", '{"keys": {}}', '{"keys": [{"name": "x"}]}', '{"keys": [7]}', '{"kyes": []}', "\xff"],
)
def test_a_file_that_is_gone_or_damaged_lets_nobody_in(file, content):
    """It answers 503: those who have a key come back, and nothing crashes."""
    secret = _create(file)
    door = Doorkeeper(file)
    if content is None:
        file.unlink()
    else:
        file.write_text(content, encoding="latin-1")
    for shown in (secret, None, "other"):
        with _refused(503, "keys-unavailable"):
            door.admit(shown)
    if content is not None:
        with pytest.raises(KeyFileError):
            Doorkeeper(file)
        file.unlink()
    again = _create(file, "alice")
    assert _name(door, again) == "alice"
    with _refused(401, "key-unknown"):
        door.admit(secret)


@pytest.mark.parametrize("change", [{"sha256": "né"}, {"sha256": 7}, {"expires": "soon"}, {"per_minute": "9"}])
def test_a_key_with_values_of_a_wrong_kind_is_no_key(file, change):
    """Found when the file is read, not when somebody asks."""
    _create(file)
    values = json.loads(file.read_text())
    values["keys"][0] |= change
    file.write_text(json.dumps(values))
    with pytest.raises(KeyFileError, match="is no file of keys"):
        Doorkeeper(file)


def test_keys_made_at_the_same_time_are_all_kept(file):
    """Two operators at once: the later write would undo the earlier."""
    with ThreadPoolExecutor(8) as pool:
        secrets = list(pool.map(lambda number: _create(file, f"user{number}"), range(16)))
    door = Doorkeeper(file)
    assert [_name(door, secret) for secret in secrets] == [f"user{number}" for number in range(16)]


def test_without_a_file_everybody_is_let_in_and_nothing_is_counted():
    door = Doorkeeper(None)
    assert all(door.admit(None) is None for _ in range(1000))


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 65, "a\n"])
def test_a_name_that_could_not_be_written_anywhere_is_refused(file, name):
    with pytest.raises(KeyFileError, match="cannot be a key's name"):
        _create(file, name)
    assert not file.exists()
