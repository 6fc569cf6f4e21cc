"""Only what passed its gate gets a version, and a stage goes to what may hold it."""

import json

import pytest
from candidates import MODEL, attest, candidate, log_files, register, register_many

from v2meow import bundle
from v2meow.registry import UNSET, ConflictError, Registry, RegistryError

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
    attest(registry, tmp_path, "v1")
    registry.promote(MODEL, "v1", "production", actor="ada")
    registry.promote(MODEL, "v2", "staging", actor="ada")
    state = Registry(registry.root).state(MODEL)
    assert list(state.versions) == ["v1", "v2"]
    assert state.stages == {"staging": "v2", "production": "v1"}
    assert [event.kind for event in state.history] == [
        *("register", "register", "assign", "attest", "assign", "assign")
    ]
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
    attest(registry, tmp_path, "v1")
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
        attest(registry, tmp_path, name)
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
