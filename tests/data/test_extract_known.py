"""A catalogue that grew by a video is extracted for that video alone, to the bytes that all of it would give."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import yaml

from v2meow import workspace as workspaces
from v2meow.config import Recipe, load_recipe
from v2meow.data import clips, extract, quarantine, synthetic
from v2meow.data.extract import local
from v2meow.data.manifest import EXAMPLES, RAW, read_clips
from v2meow.files import write_json
from v2meow.train import fit
from v2meow.workspace import last_version

VIDEOS = 4
CHANGES = {"extract.batch": 3, "extract.shard_clips": 6, "data.holdout": 0.4}


def _dvc(place: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=place, check=True, capture_output=True)


@pytest.fixture(scope="module")
def grown(tmp_path_factory) -> Path:
    """A workspace whose examples of four videos are a version in DVC's cache, and where a fifth has come since."""
    folder = tmp_path_factory.mktemp("grown")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tiny.values(CHANGES)))
    place = folder / "place"
    workspaces.init(place, str(folder / "recipe.yaml"))
    recipe = load_recipe(place / "recipe.yaml")
    synthetic.make(place / RAW, 0, VIDEOS + 1)
    last = max((place / RAW).glob("*.mp4"))
    shutil.move(last, folder / last.name)
    clips.run(recipe, place)
    for name in ("codec", "semantic", "joint"):
        fit.run(name, recipe, place)
    write_json(place / "reports/validate.json", {"passed": True})
    quarantine.write(place, [])
    extract.run(recipe, place)
    _dvc(place, "commit", "--force", "extract")
    shutil.move(folder / last.name, place / RAW / last.name)
    clips.run(recipe, place)
    return place


@pytest.fixture
def place(grown, tmp_path) -> Path:
    """A copy of it, without examples, as DVC leaves it when it runs the step."""
    return shutil.copytree(grown, tmp_path / "copy", symlinks=True, ignore=shutil.ignore_patterns("examples"))


@pytest.fixture
def recipe(grown) -> Recipe:
    return load_recipe(grown / "recipe.yaml")


def _old(place: Path) -> int:
    """How many clips the last version has."""
    last = max((place / RAW).glob("*.mp4")).name
    return sum(Path(clip.path).name != last for clip in read_clips(place))


def _contents(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (place / EXAMPLES).iterdir()}


def test_one_new_video_is_extracted_alone_and_all_bytes_are_those_of_the_whole(place, recipe, monkeypatch):
    """A catalogue of a thousand videos would be decoded and encoded again every night."""
    asked = []
    encode = local.encode

    def counted(recipe, workspace, batches):
        asked.extend(clip.path for batch in batches for clip in batch.clips)
        return encode(recipe, workspace, batches)

    monkeypatch.setattr(local, "encode", counted)
    assert extract.run(recipe, place)["taken"] == _old(place) > 0
    assert {Path(path).name for path in asked} == {max((place / RAW).glob("*.mp4")).name}
    grown = _contents(place)
    shutil.rmtree(place / EXAMPLES)
    (place / "dvc.lock").unlink()
    assert extract.run(recipe, place)["taken"] == 0
    assert _contents(place) == grown


def test_what_the_clips_table_says_now_is_taken_over(place, recipe):
    """A caption that was mended would stay as it was."""
    first = min((place / RAW).glob("*.json"))
    first.write_text('{"caption": "mended"}')
    clips.run(recipe, place)
    assert extract.run(recipe, place)["taken"] == _old(place)
    found = {row["caption"] for row in _rows(place) if row["clip_id"] in _of(place, first.with_suffix(".mp4").name)}
    assert found == {"mended"}


def _rows(place: Path) -> list[dict]:
    from v2meow.data.shards import read_shards

    return [row for table in read_shards(place / EXAMPLES) for row in table.to_pylist()]


def _of(place: Path, name: str) -> set[str]:
    return {clip.clip_id for clip in read_clips(place) if Path(clip.path).name == name}


def test_nothing_is_taken_from_other_encoders_or_another_recipe(place, recipe):
    """Half of the ids would mean something else."""
    changed = replace(recipe, data=replace(recipe.data, hop_seconds=recipe.data.hop_seconds / 2))
    clips.run(changed, place)
    assert extract.run(changed, place)["taken"] == 0
    shutil.rmtree(place / EXAMPLES)
    clips.run(recipe, place)
    config = place / "models/encoders/codec/config.json"
    config.write_text(config.read_text() + "\n")
    assert extract.run(recipe, place)["taken"] == 0


def test_a_damaged_file_of_the_last_version_is_not_believed(place, recipe):
    """DVC's cache can rot; the rows are then made anew."""
    parts = [path for name, path in last_version(place, EXAMPLES.as_posix()).items() if name.endswith(".parquet")]
    damaged = parts[0].read_bytes()
    parts[0].chmod(0o644)
    parts[0].write_bytes(damaged[:-100] + bytes(100))
    assert extract.run(recipe, place)["taken"] < _old(place)


def test_a_version_that_is_not_in_the_cache_is_no_error(place, recipe):
    """A fresh clone has dvc.lock and an empty cache."""
    shutil.rmtree(place / ".dvc/cache")
    assert last_version(place, EXAMPLES.as_posix()) == {}
    assert extract.run(recipe, place)["taken"] == 0


@pytest.mark.slow
def test_an_old_revision_gives_its_examples_again_byte_for_byte(place, recipe):
    """Whoever asks what a model was trained on gets that, and not something like it."""
    before = _version(place, "one")
    extract.run(recipe, place)
    _dvc(place, "commit", "--force", "extract")
    after = _contents(place)
    _git(place, "commit", "--quiet", "--all", "--message", "two")
    _git(place, "checkout", "--quiet", before, "--", "dvc.lock")
    _dvc(place, "checkout", "--force", "data/examples")
    old = _contents(place)
    assert old != after
    assert {name: path.read_bytes() for name, path in last_version(place, EXAMPLES.as_posix()).items()} == old
    shutil.rmtree(place / EXAMPLES)
    (place / "dvc.lock").unlink()
    max((place / RAW).glob("*.mp4")).unlink()
    clips.run(recipe, place)
    extract.run(recipe, place)
    assert _contents(place) == old  # made anew from the videos of then


def _version(place: Path, name: str) -> str:
    """Commit what lies there; the revision."""
    _git(place, "add", "--all")
    _git(place, "commit", "--quiet", "--message", name)
    return _git(place, "rev-parse", "HEAD")


def _git(place: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    done = subprocess.run(["git", *identity, *arguments], cwd=place, check=True, capture_output=True, text=True)
    return done.stdout.strip()
