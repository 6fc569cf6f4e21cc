"""Of many writers at once one wins a stage, no event is lost or repeated, and one that dies leaves nothing half."""

import random
import signal
import time
from collections import Counter

import pytest
from candidates import MODEL, attest, candidate, log_files, register, register_many, release, run_together

from v2meow.registry import ConflictError
from v2meow.registry.log import EventLog


def test_of_eight_promotions_with_one_expectation_exactly_one_wins(registry, children, tmp_path):
    names = register_many(registry, tmp_path, 8)
    code = """
try:
    registry.promote("v2meow", sys.argv[2], "staging", actor="a", expected_previous=None)
    print("won")
except ConflictError as error:
    print(error)
"""
    answers = run_together([children(code, name) for name in names])
    winner = names[answers.index("won")]
    lost = f"v2meow@staging is held by {winner} now, where no version was expected"
    assert Counter(answers) == {"won": 1, lost: 7}
    assert registry.state(MODEL).stages == {"staging": winner}
    assert len(log_files(registry)) == 9


def test_registrations_at_once_take_each_number_once_and_one_bundle_only_once(registry, children, tmp_path):
    """Four bundles, each registered by two processes."""
    folders = [candidate(tmp_path / str(i), f"content {i}") for i in range(4)] * 2
    answers = run_together([children("print(register(sys.argv[2]))", str(folder)) for folder in folders])
    assert answers[:4] == answers[4:]
    assert sorted(answers[:4]) == ["v1", "v2", "v3", "v4"]
    assert [path.name for path in log_files(registry)] == [f"{i:08d}.json" for i in range(1, 5)]
    for name in answers[:4]:
        registry.resolve(f"v2meow@{name}")


def test_rollbacks_at_once_go_back_one_version(registry, children, tmp_path):
    """Two operators see the same failure; together they must not undo a good version as well."""
    for name in register_many(registry, tmp_path, 6):
        registry.promote(MODEL, name, "staging", actor="ada")
    # Each child holds back its first write until all of them have read the same state.
    code = """
import time
from v2meow.registry.log import EventLog
append = EventLog.append
def late(*arguments):
    Path(sys.argv[2], str(os.getpid())).touch()
    while len(list(Path(sys.argv[2]).iterdir())) < 4:
        time.sleep(0.01)
    return append(*arguments)
EventLog.append = late
try:
    print(registry.rollback("v2meow", "staging", actor="a").name)
except ConflictError:
    print("conflict")
"""
    (tmp_path / "arrived").mkdir()
    answers = run_together([children(code, str(tmp_path / "arrived")) for _ in range(4)])
    assert Counter(answers) == {"v5": 1, "conflict": 3}
    assert registry.state(MODEL).stages == {"staging": "v5"}


def test_writers_of_both_stages_and_of_versions_never_lose_or_repeat_an_event(registry, children, tmp_path):
    names = register_many(registry, tmp_path, 4)
    for name in names:
        registry.promote(MODEL, name, "staging", actor="ada")
        attest(registry, tmp_path, name)
    code = """
for i in range(8):
    try:
        registry.promote("v2meow", f"v{(int(sys.argv[3]) + i) % 4 + 1}", sys.argv[2], actor="a")
    except ConflictError:
        print("conflict")
"""
    stages = ["staging", "production"] * 4
    run_together([children(code, stage, str(i)) for i, stage in enumerate(stages)])
    history = registry.state(MODEL).history
    assert [path.name for path in log_files(registry)] == [f"{i:08d}.json" for i in range(1, len(history) + 1)]
    for stage in ("staging", "production"):
        handed = [(event.expected_previous, event.version.name) for event in history if event.stage == stage]
        assert [before for before, _ in handed] == [None, *(after for _, after in handed[:-1])]


@pytest.mark.parametrize("interloper", ["another stage", "the same stage"])
def test_a_lost_number_is_a_conflict_only_when_the_stage_changed_hands(interloper, registry, monkeypatch, tmp_path):
    """A registration or the other stage may take the number that a promotion wanted: that must not fail it."""
    for name in register_many(registry, tmp_path, 3)[:2]:
        registry.promote(MODEL, name, "staging", actor="ada")
        attest(registry, tmp_path, name)
    append = EventLog.append

    def overtaken(*arguments):
        monkeypatch.setattr(EventLog, "append", append)
        if interloper == "another stage":
            registry.promote(MODEL, "v1", "production", actor="grace")
        else:
            registry.rollback(MODEL, "staging", actor="grace")
        return append(*arguments)

    monkeypatch.setattr(EventLog, "append", overtaken)
    if interloper == "another stage":
        assert registry.promote(MODEL, "v3", "staging", actor="ada").number == 9
        assert registry.state(MODEL).stages == {"staging": "v3", "production": "v1"}
    else:
        with pytest.raises(ConflictError, match="held by v1 now, where v2 was expected"):
            registry.promote(MODEL, "v3", "staging", actor="ada")


# Writers that fail or die


def test_an_event_that_does_not_fit_on_the_disk_is_not_written_at_all(registry, children, tmp_path):
    """The error names the file, and the log goes on from where it was."""
    register_many(registry, tmp_path, 1)
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    registry.promote("v2meow", "v1", "staging", actor="a")
except OSError as error:
    print(error)
"""
    (answer,) = run_together([children(code)])
    assert "could not write" in answer and "00000002.json: File too large" in answer
    assert [path.name for path in (registry.root / MODEL / "log").iterdir()] == ["00000001.json"]
    registry.promote(MODEL, "v1", "staging", actor="ada")


@pytest.mark.parametrize("function", ["fsync", "link", "unlink"])
def test_a_writer_killed_at_any_step_leaves_a_whole_event_or_none(function, registry, children, tmp_path):
    register_many(registry, tmp_path, 1)
    child = children(f"die_at('{function}')\nregistry.promote('v2meow', 'v1', 'staging', actor='a')")
    run_together([child])
    assert child.returncode == -signal.SIGKILL
    assert registry.state(MODEL).stages == ({"staging": "v1"} if function == "unlink" else {})
    registry.promote(MODEL, "v1", "staging", actor="ada")
    assert registry.state(MODEL).stages == {"staging": "v1"}


@pytest.mark.parametrize("function", ["fsync", "replace", "link"])
def test_a_registration_killed_at_any_step_is_finished_by_the_next(function, registry, children, tmp_path):
    """And the copy that the killed one left half way is gone, so that kills do not fill the disk."""
    folder = candidate(tmp_path / "a", "a")
    child = children(f"die_at('{function}')\nregister(sys.argv[2])", str(folder))
    run_together([child])
    assert child.returncode == -signal.SIGKILL
    assert registry.models() == []
    version = register(registry, folder)
    assert registry.resolve("v2meow@v1").name == version.bundle
    assert {path.name for path in (registry.root / MODEL / "bundles").iterdir()} == {".lock", version.bundle}


def test_writers_killed_at_random_leave_a_log_that_reads_and_goes_on(registry, children, tmp_path):
    register_many(registry, tmp_path, 2)
    code = """
while True:
    for version in ("v1", "v2"):
        try:
            registry.promote("v2meow", version, "staging", actor="a")
        except ConflictError:
            pass
"""
    moments = random.Random(0)
    for _ in range(4):
        writers = [children(code) for _ in range(2)]
        release(writers)
        time.sleep(moments.uniform(0.02, 0.2))
        for writer in writers:
            writer.kill()
            writer.wait()
        length = len(log_files(registry))
        assert len(registry.state(MODEL).history) == length
        assert registry.promote(MODEL, "v1", "staging", actor="ada").number in (length, length + 1)
