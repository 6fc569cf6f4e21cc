"""A version says which videos it was made from, and a video which versions learnt from it."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from candidates import MODEL, attest, candidate, register
from typer.testing import CliRunner

from v2meow import lineage, release, workspace
from v2meow.cli_models import app
from v2meow.data import origins
from v2meow.data.manifest import CLIPS, Clip, DataError, write_clips
from v2meow.registry import Registry, Version
from v2meow.workspace.folder import child_environment

CARD = "# A model of bells\n"


def clip(number: int, split: str = "train", start: float = 0.0, **attributes) -> Clip:
    digest = hashlib.sha256(b"%d" % number).hexdigest()
    return Clip(
        clip_id=f"{digest[:16]}-{start}",
        video_id=digest[:16],
        path=f"data/raw/{number}.mp4",
        sha256=digest,
        start=start,
        seconds=4.0,
        video_seconds=90.0,
        fps=25.0,
        width=64,
        height=64,
        sample_rate=16_000,
        channels=1,
        loudness_db=-20.0,
        split="train" if split == "train" else "holdout",
        caption="",
        attributes=attributes,
    )


def write(place: Path, clips: list[Clip]) -> None:
    write_clips(place / CLIPS, clips)


@pytest.fixture
def catalogue(tmp_path: Path) -> list[Clip]:
    first = [clip(1, start=start, licence="CC-BY-4.0") for start in (0.0, 4.0)]
    return [*first, clip(2, "holdout", license="CC0"), clip(3)]


def dvc(place: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "dvc", *arguments]
    subprocess.run(command, cwd=place, env=child_environment(), check=True, capture_output=True)


# The table


def test_a_video_is_one_row_however_many_clips_it_gave(tmp_path, catalogue):
    write(tmp_path, catalogue)
    rows = {row["path"]: row for row in origins.videos_of(tmp_path / CLIPS).to_pylist()}
    assert [(row["clips"], row["split"], row["licence"]) for _, row in sorted(rows.items())] == [
        (2, "train", "CC-BY-4.0"),
        (1, "holdout", "CC0"),
        (1, "train", ""),
    ]
    told = origins.summary(origins.videos_of(tmp_path / CLIPS))
    assert (told.train, told.holdout, told.hours) == (2, 1, 3 * 90.0 / 3600.0)
    assert told.licences == {"CC-BY-4.0": 1, "CC0": 1, "unknown": 1}


def test_the_same_videos_give_the_same_bytes_and_come_back(tmp_path, catalogue):
    """Their hash stands in the registry: registering again must not look like other videos."""
    found = []
    for name in ("a", "b"):
        write(tmp_path / name, catalogue if name == "a" else catalogue[::-1])
        origins.write(tmp_path / f"{name}.parquet", origins.videos_of(tmp_path / name / CLIPS))
        found.append((tmp_path / f"{name}.parquet").read_bytes())
    assert found[0] == found[1]
    assert origins.read(found[0]).equals(origins.videos_of(tmp_path / "a" / CLIPS))


def test_what_is_no_table_of_clips_or_videos_is_refused(tmp_path, catalogue):
    with pytest.raises(DataError, match="is no table of clips"):
        origins.videos_of(tmp_path / "nothing.parquet")
    write(tmp_path, catalogue)
    for content in (b"", (tmp_path / CLIPS).read_bytes()):
        with pytest.raises(DataError, match="no table of videos"):
            origins.read(content)


# From a video to versions


def registered(registry: Registry, folder: Path, clips: list[Clip] | None) -> Version:
    """A version that was made from these clips; from nobody knows what if None."""
    made = candidate(folder, folder.name)
    if clips is None:
        return register(registry, made)
    write(folder, clips)
    origins.write(folder / "videos.parquet", origins.videos_of(folder / CLIPS))
    return register(registry, made, lineage=folder / "videos.parquet")


def test_the_versions_that_learnt_from_a_video_are_found(registry, tmp_path, catalogue):
    """A video that was only held out taught nothing; a retired version did learn; and not to know is not to say no."""
    first = registered(registry, tmp_path / "first", catalogue)
    second = registered(registry, tmp_path / "second", [*catalogue[:2], clip(2)])
    old = registered(registry, tmp_path / "old", None)
    registry.retire(MODEL, first.name, actor="ada", reason="old")
    expected = {1: [first, second], 2: [second], 3: [first], 4: []}
    for number, versions in expected.items():
        assert release.versions_trained_on(registry, clip(number).video_id) == (versions, [old])
        assert release.versions_trained_on(registry, clip(number).sha256) == (versions, [old])


# From a version to videos


@pytest.fixture(scope="module")
def versioned(tmp_path_factory) -> Path:
    """A workspace whose git and DVC know two catalogues, with a version registered from each."""
    place = tmp_path_factory.mktemp("versioned") / "ws"
    workspace.init(place, "nano")
    (place / "dvc.yaml").write_text("stages:\n  ingest:\n    cmd: 'true'\n    outs: [data/clips]\n")
    for turn in range(2):
        write(place, [clip(number, licence="CC0") for number in range(2 + turn)])
        dvc(place, "commit", "--force", "--quiet")
        folder = place.parent / f"made{turn}"
        made = candidate(folder, str(turn))
        (made / "MODEL_CARD.md").write_text(CARD)
        (place / "reports").mkdir(exist_ok=True)
        (place / "models").mkdir(exist_ok=True)
        parts = {name: made / name for name in ("recipe.yaml", "MODEL_CARD.md")}
        digest = release.bundle.assemble(parts, place / release.BUNDLE)
        criteria = [{"metric": "loss", "value": 0.1, "reason": "0.1, at most 0.2 is asked"}]
        verdict = {"passed": True, "bundle": digest, "recipe": "nano", "criteria": criteria}
        (place / release.VERDICT).write_text(json.dumps(verdict))
        release.register(place)
    return place


def test_a_version_is_traced_to_the_videos_of_its_time(versioned):
    """The catalogue has grown since: what lies there now is not what v1 was made from."""
    registry = release.registry(versioned)
    found = lineage.trace(registry, registry.find("v2meow@v1"), versioned)
    assert found.videos is not None and found.videos["path"].to_pylist() and len(found.videos) == 2
    assert found.card == CARD and found.gaps == () and found.commit.startswith("Register v2meow, ")
    later = lineage.trace(registry, registry.find("v2meow@v2"), versioned)
    assert later.videos is not None and len(later.videos) == 3
    assert found.data.keys() == {"data/clips"} and found.data != later.data


@pytest.mark.slow
def test_the_videos_are_those_that_dvc_has_of_that_revision(versioned):
    """And where nothing was registered with a version, DVC alone tells."""
    registry = release.registry(versioned)
    version = registry.find("v2meow@v1")
    found = lineage.trace(registry, version, versioned, verify=True)
    assert found.gaps == ()
    bare = replace(version, lineage=None)
    assert lineage.trace(registry, bare, versioned).videos == found.videos
    other = replace(registry.find("v2meow@v2"), lineage=version.lineage)
    (gap,) = lineage.trace(registry, other, versioned, verify=True).gaps
    assert "differs from what was registered" in gap


def test_what_cannot_be_reached_is_said_and_the_rest_told(versioned, fresh):
    """A registry that is asked from another workspace, which has neither that git history nor that data."""
    registry = release.registry(versioned)
    for place, told in ((fresh, "has no commit"), (None, "no workspace was named")):
        found = lineage.trace(registry, registry.find("v2meow@v1"), place)
        assert [told in gap for gap in found.gaps] == [True]
        assert found.card == CARD and found.videos is not None and len(found.videos) == 2
    table = registry.root / MODEL / "attached" / (registry.find("v2meow@v1").lineage or "")
    content = table.read_bytes()
    table.unlink()
    found = lineage.trace(registry, registry.find("v2meow@v1"), None)
    assert found.videos is None and any("is missing" in gap for gap in found.gaps)
    table.write_bytes(content)


def test_a_model_of_other_videos_than_those_of_now_is_not_registered(versioned, tmp_path):
    """Its data version would name a catalogue that it has never seen."""
    lock = versioned / "dvc.lock"
    content = lock.read_text()
    step = "  evaluate:\n    cmd: x\n    deps:\n    - path: data/clips\n      hash: md5\n      md5: 0.dir\n"
    lock.write_text(content + step)
    with pytest.raises(workspace.WorkspaceError, match="data/clips changed since: run `v2meow run`"):
        release.register(versioned)
    lock.write_text(content)


def test_the_command_line_shows_all_of_it(versioned, tmp_path):
    def models(*arguments: str) -> str:
        done = CliRunner().invoke(app, [*arguments, "--workspace", str(versioned)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    registry = release.registry(versioned)
    models("promote", MODEL, "v2", "staging", "--key", "1")
    attest(registry, tmp_path, "v2", numbers={"p95_s": 1.5})
    assert "is approved for production" in models("approve", MODEL, "v2", "production", "-m", "good", "--as", "grace")
    shown = models("show", "v2meow@staging")
    for told in ("A model of bells", "at most 0.2 is asked", "p95_s 1.5", "3 trained on", "CC0 3", "data/raw/2.mp4"):
        assert told in shown
    plain = json.loads(models("show", "v2meow@v2", "--json"))
    assert [video["path"] for video in plain["videos"]] and plain["stages"] == ["staging"]
    assert [event["kind"] for event in json.loads(models("log", MODEL, "--json"))][-1] == "approve"
    assert "is retired" in models("retire", MODEL, "v1", "-m", "old")
    assert "v1 (retired), v2" in models("list")
    assert "smoke report" in models("attest", MODEL, "v2", "smoke", str(tmp_path / "smoke.json"))
    assert "tags made" in models("project")
