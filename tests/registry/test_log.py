"""History stays: what was edited, lost or brought in from elsewhere is found, and old logs read as they always did."""

import hashlib
import time
from pathlib import Path

import pytest
from candidates import MODEL, candidate, log_files, register, register_many

from v2meow.registry import Event, ModelState, Registry, RegistryError
from v2meow.registry.log import EventLog
from v2meow.registry.store import FolderStore


@pytest.fixture
def log(registry, tmp_path) -> list[Path]:
    """The files of a log of four events."""
    register_many(registry, tmp_path, 3)
    registry.promote(MODEL, "v1", "staging", actor="ada")
    return log_files(registry)


def test_any_flipped_byte_of_an_event_is_found_and_its_file_named(registry, log):
    """The newest event too, although no later one holds its hash."""
    for file in (log[1], log[3]):
        content = file.read_bytes()
        for position in range(len(content)):
            file.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
            with pytest.raises(RegistryError, match=file.name):
                registry.state(MODEL)
        file.write_bytes(content)
    assert len(registry.state(MODEL).history) == 4


def test_a_missing_event_is_named(registry, log):
    log[1].unlink()
    with pytest.raises(RegistryError, match=r"00000002\.json is missing"):
        registry.state(MODEL)


def test_an_event_from_another_log_does_not_fit_the_chain(registry, log, tmp_path):
    """It is sound by itself and has the right number; only the hash of its predecessor is wrong."""
    other = Registry(tmp_path / "other")
    register_many(other, tmp_path / "more", 3, actor="grace")
    log[2].write_bytes(log_files(other)[2].read_bytes())
    with pytest.raises(RegistryError, match=r"00000003\.json does not follow"):
        registry.state(MODEL)


@pytest.mark.parametrize("name", ["notes.txt", "5.json", "00000005.json.bak"])
def test_a_file_that_is_no_event_does_not_belong_in_the_log(name, registry, log):
    log[0].with_name(name).write_text("{}")
    with pytest.raises(RegistryError, match=f"{name} is not an event"):
        registry.state(MODEL)


@pytest.mark.parametrize("content", [b"", b"null", b"{}", b'{"sha256": ""}', b"\xff", b'{"sha256": "", "version": 1}'])
def test_an_event_that_is_none_is_refused_as_such(content, registry, log):
    log[3].write_bytes(content)
    with pytest.raises(RegistryError, match=r"00000004\.json is not an event"):
        registry.state(MODEL)


def test_a_log_that_cannot_be_written_is_an_error_that_names_the_file(registry, tmp_path):
    """A file in the place of the log's folder must not look like a number that is taken: retrying never ends."""
    (registry.root / MODEL).mkdir(parents=True)
    (registry.root / MODEL / "log").write_text("")
    with pytest.raises(OSError, match=r"File exists: .*/log"):
        register(registry, candidate(tmp_path / "a", "a"))


def test_newest_events_that_were_deleted_are_missed_by_who_had_read_them(registry, log):
    """The rest of the log is sound without them: a promotion could be undone with no trace."""
    registry.state(MODEL)
    content = log[3].read_bytes()
    log[3].unlink()
    with pytest.raises(RegistryError, match=r"00000004\.json is missing, but was there before"):
        registry.state(MODEL)
    log[3].write_bytes(content)
    assert len(registry.state(MODEL).history) == 4


def test_a_history_that_was_rewritten_whole_is_found_by_who_had_read_it(registry, log, tmp_path):
    """Every file of it fits the next; only a reader's memory tells that it is another story."""
    registry.state(MODEL)
    other = Registry(tmp_path / "other")
    register_many(other, tmp_path / "more", 4, actor="grace")
    for file, forged in zip(log, log_files(other), strict=True):
        file.write_bytes(forged.read_bytes())
    with pytest.raises(RegistryError, match=r"00000001\.json is not what it was before"):
        registry.state(MODEL)
    assert len(Registry(registry.root).state(MODEL).history) == 4


class Quick(FolderStore):
    """Writes without waiting for the disk."""

    def put_if_absent(self, name: str, content: bytes) -> bool:
        (self.folder / name).write_bytes(content)
        return True


def test_a_thousand_events_are_read_in_a_moment(registry, tmp_path):
    """Services ask every few seconds; what was read before must not be parsed again."""
    register_many(registry, tmp_path, 2)
    log, state = EventLog(MODEL, Quick(registry.root / MODEL / "log")), registry.state(MODEL)
    for number in range(998):
        version = state.versions[f"v{number % 2 + 1}"]
        event = log.append(state, Event(kind="assign", version=version, evidence="", actor="ada", stage="staging"))
        assert event
        head = hashlib.sha256((registry.root / MODEL / "log" / f"{event.number:08d}.json").read_bytes()).hexdigest()
        state = ModelState(model=MODEL, history=(*state.history, event), head=head)
    begun = time.process_time()
    first = Registry(registry.root)
    assert first.state(MODEL) == state and len(state.history) == 1000
    read = time.process_time()
    assert first.state(MODEL).stages == {"staging": "v2"}
    assert read - begun < 1.0 and time.process_time() - read < 0.1
