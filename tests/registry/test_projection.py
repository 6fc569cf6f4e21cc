"""GTO's tags are what the log says: rebuilt from nothing, whoever's clock is wrong, here and in a remote."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from candidates import MODEL, attest, candidate, register

from v2meow import release
from v2meow.registry import ModelState, Registry, RegistryError, gto
from v2meow.workspace import WorkspaceError, commits_of, set_tags

IDENTITY = ("-c", "user.name=ada", "-c", "user.email=ada@localhost")


def git(place: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=place, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A repository with a registry of three versions; what holds production held it before, and v2 is retired."""
    place = tmp_path / "place"
    place.mkdir()
    git(place, "init", "--quiet", "--initial-branch=main")
    registry = Registry(place / "registry")
    for number in (1, 2, 3):
        revision = commit(place, f"number {number}")
        name = register(registry, candidate(tmp_path / str(number), f"content {number}"), git_revision=revision).name
        attest(registry, tmp_path, name)
        registry.promote(MODEL, name, "staging", actor="ada <a@b>\nlovelace")
        registry.promote(MODEL, name, "production", actor="ada")
    registry.rollback(MODEL, "production", actor="grace")
    registry.rollback(MODEL, "production", actor="grace")
    registry.retire(MODEL, "v2", actor="ada", reason="a video in it was withdrawn")
    git(place, "tag", "v2meow2@v1.0.0")
    git(place, "tag", "released")
    return place


def commit(place: Path, message: str) -> str:
    git(place, *IDENTITY, "commit", "--quiet", "--allow-empty", "-m", message)
    return git(place, "rev-parse", "HEAD")


def tags(place: Path) -> dict[str, str]:
    lines = git(place, "for-each-ref", "--format=%(refname:strip=2) %(objectname)", "refs/tags").splitlines()
    return dict(line.split() for line in lines)


def wanted(place: Path, state: ModelState) -> list[gto.Tag]:
    return gto.tags(state, commits_of(place, {version.git_revision for version in state.versions.values()}))[0]


def test_tags_are_rebuilt_from_nothing_and_wrong_ones_mended(place):
    """A hand-made tag, one of another time and one that points elsewhere all change what GTO believes."""
    change, missing = release.project(place)
    made = tags(place)
    assert (change.made, change.removed, missing) == (18, 0, [])
    assert {"v2meow@v1.0.0", "v2meow#production#12", "v2meow@v2.0.0!#15"} <= made.keys()
    assert release.project(place)[0].kept == 18
    for name in made:
        if name.startswith("v2meow#"):
            git(place, "tag", "-d", name)
    git(place, "tag", "-f", "v2meow@v3.0.0", "HEAD~2")
    git(place, *IDENTITY, "tag", "-a", "-m", "mine", "v2meow#production#99", "HEAD")
    change, _ = release.project(place)
    assert tags(place) == made and "released" in made and "v2meow2@v1.0.0" in made
    assert (change.made, change.removed) == (15, 1)


def test_gto_reads_what_the_registry_says(place):
    """What it calls current goes by dates in one place and by versions in another: both must say the same."""
    api = pytest.importorskip("gto.api")
    release.project(place)
    state = release.registry(place).state(MODEL)
    for stage, version in state.stages.items():
        (found,) = api.find_versions_in_stage(str(place), MODEL, stage)
        assert found.version == f"{version}.0.0"
    shown = api.show(str(place))[MODEL]
    assert shown["stage"] == {stage: f"{version}.0.0" for stage, version in state.stages.items()}
    assert [found["version"] for found in api.show(str(place), MODEL)] == ["v3.0.0", "v1.0.0"]  # v2 is retired


def test_a_clock_that_is_wrong_by_an_hour_changes_nothing(place):
    """GTO would take the tag of the writer whose clock is ahead for the newest, for an hour."""
    api = pytest.importorskip("gto.api")
    state = Registry(place / "registry").state(MODEL)
    skewed = []
    for number, event in enumerate(state.history):
        time = datetime.fromisoformat(event.time) + timedelta(hours=(-1, 1, 0)[number % 3])
        skewed.append(replace(event, time=time.isoformat()))
    projected = wanted(place, replace(state, history=tuple(skewed)))
    assert [tag.time for tag in projected] == sorted({tag.time for tag in projected})
    set_tags(place, projected, lambda name: gto.is_tag_of(MODEL, name))
    for stage, version in state.stages.items():
        (found,) = api.find_versions_in_stage(str(place), MODEL, stage)
        assert found.version == f"{version}.0.0"


def test_gto_finds_nothing_in_a_stage_that_was_withdrawn(place):
    """Else `dvc artifacts get` goes on giving what was refused."""
    api = pytest.importorskip("gto.api")
    state = Registry(place / "registry").state(MODEL)
    holder, last = state.versions[state.stages["production"]], state.history[-1]
    event = replace(last, kind="withdraw", stage="production", version=holder, number=last.number + 1, report=None)
    projected = wanted(place, replace(state, history=(*state.history, event)))
    set_tags(place, projected, lambda name: gto.is_tag_of(MODEL, name))
    assert not api.find_versions_in_stage(str(place), MODEL, "production")


def test_the_tags_do_not_depend_on_who_makes_them_or_when(place, tmp_path, monkeypatch):
    """Else two machines would push over each other for ever."""
    release.project(place)
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--no-tags", str(place), str(clone))
    shutil.copytree(place / "registry", clone / "registry")
    for name in ("GIT_COMMITTER_DATE", "GIT_AUTHOR_DATE"):
        monkeypatch.setenv(name, "2001-01-01T00:00:00")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    release.project(clone)
    assert tags(clone) == {name: found for name, found in tags(place).items() if gto.is_tag_of(MODEL, name)}


def test_a_remote_follows_and_its_other_tags_stay(place, tmp_path):
    bare = tmp_path / "bare.git"
    git(tmp_path, "init", "--quiet", "--bare", str(bare))
    git(place, "push", "--quiet", str(bare), "released", "HEAD:refs/tags/v2meow#production#40")
    release.project(place, remote=str(bare))
    assert tags(bare) == {name: found for name, found in tags(place).items() if name != "v2meow2@v1.0.0"}
    with pytest.raises(WorkspaceError, match="git ls-remote` failed"):
        release.project(place, remote=str(tmp_path / "nowhere.git"))


def test_a_version_without_a_commit_here_is_told_of_and_takes_the_stage_from_the_one_before(place, tmp_path):
    """GTO would otherwise go on saying that the version before holds production."""
    api = pytest.importorskip("gto.api")
    registry = Registry(place / "registry")
    there = registry.state(MODEL).versions["v3"].git_revision
    for folder, revision, reason in (("far", "f" * 40, "not in this repository"), ("twin", there, "is that of v3")):
        name = register(registry, candidate(tmp_path / folder, folder), git_revision=revision).name
        attest(registry, tmp_path, name)
        registry.promote(MODEL, name, "staging", actor="ada")
        registry.promote(MODEL, name, "production", actor="ada")
        _, missing = release.project(place)
        assert reason in missing[-1] and f"v2meow@{name}" in missing[-1]
        assert api.find_versions_in_stage(str(place), MODEL, "production") in ([], None)
        registry.promote(MODEL, "v3", "staging", actor="ada")
        attest(registry, tmp_path, "v3", numbers={"after": name})
        registry.promote(MODEL, "v3", "production", actor="ada")
        release.project(place)
        assert [found.version for found in api.find_versions_in_stage(str(place), MODEL, "production")] == ["v3.0.0"]


def test_a_name_that_gto_does_not_take_is_refused(tmp_path, place):
    registry = Registry(place / "registry")
    made = candidate(tmp_path / "dots", "dots")
    facts: dict[str, Any] = {"data_version": "d", "git_revision": "0" * 40, "actor": "ada"}
    registry.register("small-2.1", made / "bundle", made / "verdict.json", **facts)
    with pytest.raises(RegistryError, match=r"GTO cannot name a model 'small-2\.1'"):
        release.project(place, "small-2.1")


@pytest.mark.slow
def test_dvc_gives_the_artifact_of_the_stage(place, tmp_path):
    """`dvc artifacts get` goes by these tags, so whoever has DVC only gets what the registry says."""
    home = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    dvc = [sys.executable, "-m", "dvc"]
    clean = {name: value for name, value in home.items() if not name.startswith("GIT_")}

    def run(*arguments: str) -> None:
        subprocess.run([*dvc, *arguments], cwd=place, env=clean, check=True, capture_output=True)

    run("init", "--quiet")
    (place / "dvc.yaml").write_text("artifacts:\n  v2meow:\n    path: model\n    type: model\n")
    registry, model = Registry(place / "registry"), "v2meow"
    for number in (4, 5):
        (place / "model").write_text(f"weights {number}")
        run("add", "--quiet", "model")
        git(place, "add", "dvc.yaml", "model.dvc", ".dvc/config")
        revision = commit(place, f"model {number}")
        name = register(registry, candidate(tmp_path / f"m{number}", str(number)), git_revision=revision).name
        registry.promote(model, name, "staging", actor="ada")
    registry.rollback(model, "staging", actor="ada")
    release.project(place)
    run("artifacts", "get", str(place), "v2meow", "--stage", "staging", "-o", str(tmp_path / "got"))
    assert (tmp_path / "got").read_text() == "weights 4"
