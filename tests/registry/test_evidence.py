"""Production is for what was tried and, where a recipe asks, approved; what was retired comes back nowhere."""

import json
from pathlib import Path

import pytest
from candidates import MODEL, attest, candidate, register, register_many
from typer.testing import CliRunner

from v2meow.cli_models import app
from v2meow.registry import Registry, RegistryError


@pytest.fixture
def staged(registry, tmp_path) -> Registry:
    """v1 and v2, which were both in staging."""
    for name in register_many(registry, tmp_path, 2):
        registry.promote(MODEL, name, "staging", actor="ada")
    return registry


def produce(registry: Registry, version: str) -> str:
    return registry.promote(MODEL, version, "production", actor="ada").evidence


# Reports


def test_production_needs_a_smoke_report_on_the_very_bundle(staged, tmp_path):
    """A report on another version would let in what nobody ever asked for music."""
    attest(staged, tmp_path, "v2")
    with pytest.raises(RegistryError, match="v2meow@v1 has no smoke report: v2meow models attest v2meow v1 smoke FILE"):
        produce(staged, "v1")
    assert produce(staged, "v2") == "was in staging by event 4; smoke report passed in event 5"


def test_a_report_on_another_bundle_is_refused(staged, tmp_path):
    other = staged.state(MODEL).versions["v2"].bundle
    with pytest.raises(RegistryError, match=f"reports on bundle {other}, not on"):
        attest(staged, tmp_path, "v1", bundle=other)
    assert len(staged.state(MODEL).history) == 4


@pytest.mark.parametrize("report", [{"passed": "yes"}, {"passed": None}, {"numbers": [1]}])
def test_a_report_that_says_neither_yes_nor_no_is_refused(report, staged, tmp_path):
    with pytest.raises(RegistryError, match=r"smoke\.json is no report"):
        attest(staged, tmp_path, "v1", **report)


@pytest.mark.parametrize("content", ["", "[]", '"passed"', '{"passed": true, "numbers": {"p95": NaN}}'])
def test_a_report_that_cannot_be_read_is_refused_by_name(content, staged, tmp_path):
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(RegistryError, match=r"report\.json"):
        staged.attest(MODEL, "v1", "smoke", tmp_path / "report.json", actor="probe")


def test_the_newest_report_of_every_kind_counts(staged, tmp_path):
    """A canary that went wrong must stop a promotion even though the smoke requests were fine."""
    attest(staged, tmp_path, "v1")
    attest(staged, tmp_path, "v1", "canary", passed=False, numbers={"errors": 7})
    with pytest.raises(RegistryError, match="v2meow@v1 failed its canary report, event 6"):
        produce(staged, "v1")
    attest(staged, tmp_path, "v1", "canary")
    assert "canary report passed in event 7" in produce(staged, "v1")


def test_a_report_is_kept_with_its_numbers_and_its_file(staged, tmp_path):
    event = attest(staged, tmp_path, "v1", numbers={"p95_s": 1.5})
    (read,) = (found for found in Registry(staged.root).state(MODEL).history if found.report)
    assert read == event and read.report and read.report.numbers == {"p95_s": 1.5}
    assert staged.attached(MODEL, read.report.sha256) == (tmp_path / "smoke.json").read_bytes()
    (staged.root / MODEL / "attached" / read.report.sha256).write_text("{}")
    with pytest.raises(RegistryError, match="is damaged"):
        staged.attached(MODEL, read.report.sha256)


def test_the_same_report_again_adds_nothing(staged, tmp_path):
    assert attest(staged, tmp_path, "v1") == attest(staged, tmp_path, "v1")
    assert len(staged.state(MODEL).history) == 5


def test_what_was_rolled_back_needs_a_new_report(staged, tmp_path):
    """Else a version that was just found bad in production would be promoted again by its old report."""
    for name in ("v1", "v2"):
        attest(staged, tmp_path, name)
        produce(staged, name)
    staged.rollback(MODEL, "production", actor="ada")
    with pytest.raises(RegistryError, match="v2meow@v2 has no smoke report since it was rolled back"):
        produce(staged, "v2")
    attest(staged, tmp_path, "v2", numbers={"tried": "again"})
    produce(staged, "v2")


# Approvals


def test_a_stage_that_asks_for_a_person_waits_for_one(registry, tmp_path):
    register(registry, candidate(tmp_path / "a", "a"), approvals=("production",))
    registry.promote(MODEL, "v1", "staging", actor="ada")
    attest(registry, tmp_path, "v1")
    with pytest.raises(
        RegistryError, match="v2meow@v1 needs a person's approval for production: v2meow models approve"
    ):
        produce(registry, "v1")
    registry.approve(MODEL, "v1", "staging", actor="grace", text="fine for staging")
    with pytest.raises(RegistryError, match="needs a person's approval"):
        produce(registry, "v1")
    event = registry.approve(MODEL, "v1", "production", actor="grace", text="  listened to all of it ")
    assert (event.version.bundle, event.stage) == (registry.state(MODEL).versions["v1"].bundle, "production")
    assert event.evidence == "listened to all of it"
    assert produce(registry, "v1").endswith(f"approved by grace in event {event.number}")


def test_an_approval_of_one_version_is_none_of_another(registry, tmp_path):
    register_many(registry, tmp_path, 2, approvals=("staging",))
    registry.approve(MODEL, "v1", "staging", actor="grace", text="good")
    with pytest.raises(RegistryError, match="v2meow@v2 needs a person's approval for staging"):
        registry.promote(MODEL, "v2", "staging", actor="ada")


def test_an_approval_is_spent_when_the_version_is_rolled_back(registry, tmp_path):
    for name in register_many(registry, tmp_path, 2, approvals=("staging",)):
        registry.approve(MODEL, name, "staging", actor="grace", text="good")
        registry.promote(MODEL, name, "staging", actor="ada")
    registry.rollback(MODEL, "staging", actor="ada")
    with pytest.raises(RegistryError, match="needs a person's approval"):
        registry.promote(MODEL, "v2", "staging", actor="ada")


@pytest.mark.parametrize(("actor", "text"), [("", "good"), ("grace", " ")])
def test_an_approval_without_a_person_or_words_is_refused(actor, text, staged):
    with pytest.raises(RegistryError, match="a person's name and words"):
        staged.approve(MODEL, "v1", "production", actor=actor, text=text)


# Retirement


def test_what_was_retired_is_neither_promoted_nor_handed_out(staged):
    event = staged.retire(MODEL, "v1", actor="ada", reason="a video was withdrawn")
    for stage in ("staging", "production"):
        with pytest.raises(RegistryError, match="v2meow@v1 was retired by ada: a video was withdrawn"):
            staged.promote(MODEL, "v1", stage, actor="ada")
    with pytest.raises(RegistryError, match="was retired by ada"):
        staged.resolve("v2meow@v1")
    with pytest.raises(RegistryError, match="was retired by ada"):
        staged.approve(MODEL, "v1", "production", actor="grace", text="good")
    assert staged.retire(MODEL, "v1", actor="grace", reason="once more") == event
    assert list(staged.state(MODEL).retired) == ["v1"]


def test_what_holds_a_stage_is_not_retired(staged, tmp_path):
    attest(staged, tmp_path, "v2")
    produce(staged, "v2")
    with pytest.raises(
        RegistryError, match="v2meow@v2 holds production and staging: give that to another version first"
    ):
        staged.retire(MODEL, "v2", actor="ada", reason="old")
    with pytest.raises(RegistryError, match="needs a reason"):
        staged.retire(MODEL, "v1", actor="ada", reason="")


def test_a_rollback_passes_over_what_was_retired(registry, tmp_path):
    """And what is rolled back to then is one further back, not the retired one the next time."""
    for name in register_many(registry, tmp_path, 4):
        registry.promote(MODEL, name, "staging", actor="ada")
    registry.retire(MODEL, "v3", actor="ada", reason="old")
    registry.retire(MODEL, "v2", actor="ada", reason="old")
    assert registry.rollback(MODEL, "staging", actor="ada").name == "v1"
    assert registry.state(MODEL).holders("staging") == ["v1"]
    with pytest.raises(RegistryError, match="no version held it before v1"):
        registry.rollback(MODEL, "staging", actor="ada")


def test_a_rollback_to_nothing_but_retired_versions_is_refused(staged):
    staged.retire(MODEL, "v1", actor="ada", reason="old")
    with pytest.raises(RegistryError, match="every version that held it before v2 was retired"):
        staged.rollback(MODEL, "staging", actor="ada")


# Asking again


def test_a_request_with_the_same_key_changes_nothing_the_second_time(staged, tmp_path):
    """A flow that is run again after its answer was lost; a second rollback would go back one version too far."""
    attest(staged, tmp_path, "v1")
    report = tmp_path / "smoke.json"

    def all_of_it() -> list:
        return [
            staged.attest(MODEL, "v1", "canary", report, actor="a", idempotency_key="1"),
            staged.approve(MODEL, "v1", "production", actor="a", text="good", idempotency_key="2"),
            staged.promote(MODEL, "v1", "production", actor="a", idempotency_key="3"),
            staged.promote(MODEL, "v1", "staging", actor="a", idempotency_key="4"),
            staged.rollback(MODEL, "staging", actor="a", idempotency_key="5"),
            staged.promote(MODEL, "v1", "staging", actor="a", idempotency_key="6"),
            staged.retire(MODEL, "v2", actor="a", reason="old", idempotency_key="7"),
        ]

    first = all_of_it()
    length = len(staged.state(MODEL).history)
    assert all_of_it() == first
    state = staged.state(MODEL)
    assert len(state.history) == length and state.stages == {"production": "v1", "staging": "v1"}


def test_a_key_that_was_used_for_something_else_is_refused(staged):
    staged.promote(MODEL, "v1", "staging", actor="a", idempotency_key="run 1")
    for version, stage in (("v2", "staging"), ("v1", "production")):
        with pytest.raises(RegistryError, match=r"'run 1' was used for v1, event 5, assign"):
            staged.promote(MODEL, version, stage, actor="a", idempotency_key="run 1")
    with pytest.raises(RegistryError, match=r"'run 1' was used for v1"):
        staged.rollback(MODEL, "staging", actor="a", idempotency_key="run 1")


# Old logs


@pytest.fixture
def old(registry) -> Registry:
    """A log that was written before there were reports, approvals and retirements."""
    folder = registry.root / MODEL / "log"
    folder.mkdir(parents=True)
    for file in (Path(__file__).parent / "old_log").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return registry


def test_an_old_log_reads_as_it_did(old, tmp_path):
    """Its checksums hold although events have more fields now; what is in production there stays."""
    state = old.state(MODEL)
    assert state.stages == {"production": "v1", "staging": "v2"}
    assert [event.kind for event in state.history] == [*["register"] * 2, *["assign"] * 4, "rollback"]
    assert old.promote(MODEL, "v1", "production", actor="ada") == state.history[-1]
    assert (state.versions["v2"].idempotency_key, state.versions["v2"].lineage) == ("run 1", None)


def test_an_old_log_goes_on_by_the_new_rules(old, tmp_path):
    assert register(old, candidate(tmp_path / "a", "content 1")).name == "v2"  # brings the bundle, adds no version
    with pytest.raises(RegistryError, match="v2meow@v2 has no smoke report since it was rolled back"):
        produce(old, "v2")
    attest(old, tmp_path, "v2")
    produce(old, "v2")
    assert Registry(old.root).state(MODEL).stages["production"] == "v2"


def test_files_hold_no_field_that_says_nothing(registry, tmp_path):
    """A registry that nobody attests or approves in writes what its older readers expect, but for the nonce."""
    register(registry, candidate(tmp_path / "a", "a"))
    new = json.loads((registry.root / MODEL / "log" / "00000001.json").read_text())
    old = json.loads((Path(__file__).parent / "old_log" / "00000001.json").read_text())
    assert new.keys() - old.keys() == {"nonce"} and new["version"].keys() == old["version"].keys()


# Withdrawals: the first version of all


def test_the_first_version_ever_can_be_taken_out_again(registry, tmp_path):
    """There is nothing to roll back to: what failed its trial would hold staging until another came."""
    register_many(registry, tmp_path, 1)
    registry.promote(MODEL, "v1", "staging", actor="ada")
    attest(registry, tmp_path, "v1", passed=False)
    event = registry.withdraw(MODEL, "staging", actor="promote", reason="smoke: silence", idempotency_key="k")
    assert (event.kind, event.version.name, event.evidence) == ("withdraw", "v1", "smoke: silence")
    again = Registry(registry.root)  # as another process reads it
    assert again.state(MODEL).stages == {} and again.state(MODEL).holders("staging") == []
    assert again.withdraw(MODEL, "staging", actor="promote", reason="smoke: silence", idempotency_key="k") == event
    with pytest.raises(RegistryError, match="no version of v2meow holds staging"):
        again.find(f"{MODEL}@staging")
    with pytest.raises(RegistryError, match="no version holds it"):
        again.rollback(MODEL, "staging", actor="ada")
    again.promote(MODEL, "v1", "staging", actor="ada")
    assert again.state(MODEL).stages == {"staging": "v1"}


def test_a_person_withdraws_by_command(registry, tmp_path):
    """Who is told that nobody is before it must be told how to take it out."""
    register_many(registry, tmp_path, 1)
    registry.promote(MODEL, "v1", "staging", actor="ada")
    with pytest.raises(RegistryError, match="v2meow models withdraw"):
        registry.rollback(MODEL, "staging", actor="ada")
    command = ["withdraw", MODEL, "staging", "-m", "it is slow", "--registry", str(registry.root)]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0 and "no version is v2meow@staging now" in done.stdout
    assert registry.state(MODEL).history[-1].evidence == "it is slow"
    assert registry.state(MODEL).stages == {}


def test_what_was_withdrawn_from_production_needs_a_new_report(registry, tmp_path):
    """As after a rollback: what was found before it failed there says nothing now."""
    register_many(registry, tmp_path, 1)
    registry.promote(MODEL, "v1", "staging", actor="ada")
    attest(registry, tmp_path, "v1")
    produce(registry, "v1")
    registry.withdraw(MODEL, "production", actor="ada", reason="it stutters")
    with pytest.raises(RegistryError, match="no smoke report since it was rolled back"):
        produce(registry, "v1")


@pytest.mark.parametrize(("retired", "refusal"), [(False, "can go back to v1"), (True, None)])
def test_only_what_has_nobody_before_it_is_withdrawn(retired, refusal, staged):
    """Where somebody can take the stage, it must not become empty by mistake."""
    if retired:
        staged.retire(MODEL, "v1", actor="ada", reason="licence")
        assert staged.withdraw(MODEL, "staging", actor="ada", reason="bad").version.name == "v2"
        assert staged.state(MODEL).stages == {}
    else:
        with pytest.raises(RegistryError, match=refusal):
            staged.withdraw(MODEL, "staging", actor="ada", reason="bad")
    with pytest.raises(RegistryError, match="needs a reason"):
        staged.withdraw(MODEL, "staging", actor="ada", reason=" ")


def test_an_empty_stage_has_nothing_to_withdraw(registry, tmp_path):
    register_many(registry, tmp_path, 1)
    with pytest.raises(RegistryError, match="no version holds v2meow@staging"):
        registry.withdraw(MODEL, "staging", actor="ada", reason="bad")
