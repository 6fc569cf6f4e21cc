"""Only what passed its gate gets a version, a stage changes hands by exactly one winner, and history stays."""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from v2meow import bundle
from v2meow.registry import UNSET, ConflictError, Registry, RegistryError, Version
from v2meow.registry.log import EventLog

MODEL = "v2meow"

# Each child announces itself and then waits for its standard input to close: all start at once.
CHILD = """
import os, signal, sys
from pathlib import Path
from v2meow.registry import ConflictError, Registry

registry = Registry(Path(sys.argv[1]))

def register(folder):
    bundle, verdict = Path(folder, "bundle"), Path(folder, "verdict.json")
    return registry.register("v2meow", bundle, verdict, data_version="d", git_revision="g", actor="a").name

def die_at(function):
    setattr(os, function, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))

print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


@pytest.fixture
def children(registry) -> Iterator:
    """Start processes that run `code` on the same registry; those still alive at the end are killed."""
    started = []

    def start(code: str, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-c", CHILD + code, str(registry.root), *arguments]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate()


def candidate(folder: Path, content: str, **verdict) -> Path:
    """A folder with a bundle that holds `content` and the verdict on it, changed by `verdict`."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(content)
    digest = bundle.assemble({"recipe.yaml": folder / "recipe.yaml"}, folder / "bundle")
    found = {"passed": True, "bundle": digest, "recipe": "nano", "criteria": [{"metric": "loss", "value": 0.1}]}
    (folder / "verdict.json").write_text(json.dumps(found | verdict))
    return folder


def register(registry: Registry, folder: Path, **options) -> Version:
    facts = {"data_version": "d1", "git_revision": "g1", "actor": "ada"} | options
    return registry.register(MODEL, folder / "bundle", folder / "verdict.json", **facts)


def register_many(registry: Registry, folder: Path, count: int, **options) -> list[str]:
    return [register(registry, candidate(folder / str(i), f"content {i}"), **options).name for i in range(count)]


def log_files(registry: Registry) -> list[Path]:
    return sorted(path for path in (registry.root / MODEL / "log").iterdir() if not path.name.startswith("."))


def release(children: list[subprocess.Popen]) -> None:
    """Let all children go at the same moment, once each has finished its imports."""
    for child in children:
        assert child.stdout and child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin
        child.stdin.close()
        child.stdin = None  # or `communicate` would flush it


def run_together(children: list[subprocess.Popen]) -> list[str]:
    """Release the children; return what each printed."""
    release(children)
    return [child.communicate(timeout=120)[0].strip() for child in children]


# What the log says


def test_an_event_binds_everything_that_its_decision_rested_on(registry, tmp_path):
    folder = candidate(tmp_path / "a", "a")
    version = register(registry, folder, data_version="d7", git_revision="g7", idempotency_key="run 7")
    event = registry.promote(MODEL, "v1", "staging", actor="grace")
    written = json.loads(log_files(registry)[1].read_text())
    assert (version.name, version.data_version, version.git_revision) == ("v1", "d7", "g7")
    assert (event.actor, event.stage, event.expected_previous) == ("grace", "staging", None)
    assert version.gate_report in event.evidence
    assert written["version"]["bundle"] == bundle.verify(folder / "bundle")
    assert written["version"]["verdict"]["criteria"] == [{"metric": "loss", "value": 0.1}]
    assert written["version"]["idempotency_key"] == "run 7"
    assert written["time"].endswith("+00:00")


def test_the_state_survives_the_process_that_wrote_it(registry, tmp_path):
    register_many(registry, tmp_path, 2)
    registry.promote(MODEL, "v1", "staging", actor="ada")
    registry.promote(MODEL, "v1", "production", actor="ada")
    registry.promote(MODEL, "v2", "staging", actor="ada")
    state = Registry(registry.root).state(MODEL)
    assert list(state.versions) == ["v1", "v2"]
    assert state.stages == {"staging": "v2", "production": "v1"}
    assert [event.kind for event in state.history] == ["register", "register", "assign", "assign", "assign"]
    assert Registry(registry.root).models() == [MODEL]


def test_models_do_not_share_versions(registry, tmp_path):
    register_many(registry, tmp_path, 2)
    folder = candidate(tmp_path / "other", "other")
    facts = {"data_version": "d", "git_revision": "g", "actor": "ada"}
    assert registry.register("small-2.1", folder / "bundle", folder / "verdict.json", **facts).name == "v1"
    assert registry.models() == ["small-2.1", MODEL]


# What may be registered


def test_a_failed_verdict_is_refused(registry, tmp_path):
    for i, passed in enumerate([False, None, "true", 1]):
        with pytest.raises(RegistryError, match=r"verdict\.json: the gate did not pass"):
            register(registry, candidate(tmp_path / str(i), "a", passed=passed))
    assert registry.models() == []


def test_the_verdict_on_another_bundle_is_refused(registry, tmp_path):
    """Otherwise an old passing verdict would let any later model in."""
    good = candidate(tmp_path / "good", "good")
    worse = candidate(tmp_path / "worse", "worse")
    (worse / "verdict.json").write_bytes((good / "verdict.json").read_bytes())
    with pytest.raises(RegistryError, match="is the verdict on bundle"):
        register(registry, worse)
    assert registry.models() == []


@pytest.mark.parametrize("content", ["", "[]", '{"passed": true, "bundle"', '{"passed": true, "loss": NaN}', "\udcff"])
def test_a_verdict_that_cannot_be_read_is_refused_by_name(content, registry, tmp_path):
    folder = candidate(tmp_path / "a", "a")
    (folder / "verdict.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(RegistryError, match=r"verdict\.json"):
        register(registry, folder)


def test_a_bundle_that_changed_after_its_evaluation_is_refused(registry, tmp_path):
    folder = candidate(tmp_path / "a", "a")
    (folder / "bundle/recipe.yaml").write_text("b")
    with pytest.raises(bundle.BundleError, match=r"changed: recipe\.yaml"):
        register(registry, folder)
    assert registry.models() == []


def test_registering_again_returns_the_version_that_exists(registry, tmp_path):
    """A pipeline that is retried after its answer was lost must not make a second version."""
    folder = candidate(tmp_path / "a", "a")
    first = register(registry, folder, idempotency_key="run 1")
    assert register(registry, folder, idempotency_key="run 1") == first
    assert register(registry, folder) == first
    assert len(registry.state(MODEL).history) == 1


def test_an_idempotency_key_is_not_used_for_another_bundle(registry, tmp_path):
    register(registry, candidate(tmp_path / "a", "a"), idempotency_key="run 1")
    with pytest.raises(RegistryError, match="'run 1' was used for v1"):
        register(registry, candidate(tmp_path / "b", "b"), idempotency_key="run 1")


# Who may hold a stage


def test_production_needs_staging(registry, tmp_path):
    register_many(registry, tmp_path, 2)
    with pytest.raises(RegistryError, match="v2meow@v1 has never been in staging"):
        registry.promote(MODEL, "v1", "production", actor="ada")
    registry.promote(MODEL, "v1", "staging", actor="ada")
    registry.promote(MODEL, "v2", "staging", actor="ada")
    registry.promote(MODEL, "v1", "production", actor="ada")  # it was in staging before
    assert registry.state(MODEL).stages == {"staging": "v2", "production": "v1"}


def test_promoting_what_holds_the_stage_already_adds_nothing(registry, tmp_path):
    """Else a retry would put the version before itself, and a rollback would change nothing."""
    register_many(registry, tmp_path, 1)
    first = registry.promote(MODEL, "v1", "staging", actor="ada")
    assert registry.promote(MODEL, "v1", "staging", actor="ada") == first
    assert registry.promote(MODEL, "v1", "staging", actor="ada", expected_previous="v1") == first
    assert len(registry.state(MODEL).history) == 2


def test_a_wrong_expectation_is_a_conflict_that_names_the_holder(registry, tmp_path):
    register_many(registry, tmp_path, 3)
    registry.promote(MODEL, "v1", "staging", actor="ada", expected_previous=None)
    for expected, named in ((None, "no version"), ("v2", "v2")):
        with pytest.raises(ConflictError, match=f"held by v1 now, where {named} was expected"):
            registry.promote(MODEL, "v3", "staging", actor="ada", expected_previous=expected)
    registry.promote(MODEL, "v3", "staging", actor="ada", expected_previous="v1")
    assert registry.state(MODEL).stages == {"staging": "v3"}


def test_a_damaged_bundle_is_not_promoted_until_it_is_registered_again(registry, tmp_path):
    folder = candidate(tmp_path / "a", "a")
    version = register(registry, folder)
    stored = registry.root / MODEL / "bundles" / version.bundle / "recipe.yaml"
    stored.write_text("b")
    with pytest.raises(RegistryError, match=r"v2meow@v1 cannot be used: .*changed: recipe\.yaml"):
        registry.promote(MODEL, "v1", "staging", actor="ada")
    assert register(registry, folder) == version
    assert stored.read_text() == "a"
    registry.promote(MODEL, "v1", "staging", actor="ada")


def test_rollback_goes_back_one_version_at_a_time_and_is_history_itself(registry, tmp_path):
    """A second rollback must not return to the version that was just found bad."""
    for name in register_many(registry, tmp_path, 3):
        registry.promote(MODEL, name, "staging", actor="ada")
    assert registry.rollback(MODEL, "staging", actor="ada").name == "v2"
    assert registry.rollback(MODEL, "staging", actor="ada").name == "v1"
    with pytest.raises(RegistryError, match="no version held it before v1"):
        registry.rollback(MODEL, "staging", actor="ada")
    history = registry.state(MODEL).history
    assert [(e.kind, e.version.name, e.expected_previous) for e in history[-2:]] == [
        ("rollback", "v2", "v3"),
        ("rollback", "v1", "v2"),
    ]
    registry.promote(MODEL, "v3", "staging", actor="ada")
    assert registry.rollback(MODEL, "staging", actor="ada").name == "v1"


def test_rollback_of_one_stage_leaves_the_other(registry, tmp_path):
    for name in register_many(registry, tmp_path, 2):
        registry.promote(MODEL, name, "staging", actor="ada")
        registry.promote(MODEL, name, "production", actor="ada")
    registry.rollback(MODEL, "production", actor="ada")
    assert registry.state(MODEL).stages == {"staging": "v2", "production": "v1"}


def test_a_stage_that_nobody_held_cannot_be_rolled_back(registry, tmp_path):
    register_many(registry, tmp_path, 1)
    with pytest.raises(RegistryError, match="no version holds it"):
        registry.rollback(MODEL, "production", actor="ada")


# Finding a model


def test_resolve_follows_the_stage_and_the_version(registry, tmp_path):
    register_many(registry, tmp_path, 2)
    registry.promote(MODEL, "v2", "staging", actor="ada")
    assert (registry.resolve("v2meow@staging") / "recipe.yaml").read_text() == "content 1"
    assert (registry.resolve("v2meow@v1") / "recipe.yaml").read_text() == "content 0"


def test_names_that_mean_nothing_are_answered_with_what_exists(registry, tmp_path):
    with pytest.raises(RegistryError, match=r"no model 'v2meow' in .*; nothing is registered yet"):
        registry.resolve("v2meow@staging")
    register_many(registry, tmp_path, 2)
    for name, answer in {
        "v2meow": r"write MODEL@STAGE or MODEL@v3; there are v2meow",
        "other@v1": r"no model 'other' in .*; there are v2meow",
        "v2meow@v9": r"no version 'v9'; registered: v1, v2",
        "v2meow@prod": r"no stage 'prod'; there are staging and production",
        "v2meow@staging": r"no version of v2meow holds staging; registered: v1, v2",
        "../v2meow@v1": r"'\.\./v2meow' cannot name a model",
        "V2Meow@v1": r"'V2Meow' cannot name a model",
    }.items():
        with pytest.raises(RegistryError, match=answer):
            registry.resolve(name)
    with pytest.raises(RegistryError, match="no stage 'prod'"):
        registry.promote(MODEL, "v1", "prod", actor="ada")
    with pytest.raises(RegistryError, match="no version 'v9'"):
        registry.promote(MODEL, "v9", "staging", actor="ada", expected_previous=UNSET)


def test_resolve_refuses_any_flipped_byte_of_the_stored_bundle(registry, tmp_path):
    register_many(registry, tmp_path, 1)
    folder = registry.resolve("v2meow@v1")
    for file in folder.iterdir():
        content = file.read_bytes()
        for position in range(len(content)):
            file.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
            with pytest.raises(RegistryError, match="v2meow@v1 cannot be used"):
                registry.resolve("v2meow@v1")
        file.write_bytes(content)
    assert registry.resolve("v2meow@v1") == folder


def test_resolve_refuses_a_sound_bundle_in_the_place_of_another(registry, tmp_path):
    """Swapping two stored folders leaves both consistent; only the event's hash tells them apart."""
    register_many(registry, tmp_path, 2)
    first, second = registry.resolve("v2meow@v1"), registry.resolve("v2meow@v2")
    second.rename(tmp_path / "second")
    first.rename(second)
    with pytest.raises(RegistryError, match="holds another bundle"):
        registry.resolve("v2meow@v2")
    with pytest.raises(RegistryError, match="not a bundle"):
        registry.resolve("v2meow@v1")


# A log that cannot be trusted


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


# Many at once


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
        assert registry.promote(MODEL, "v3", "staging", actor="ada").number == 7
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
