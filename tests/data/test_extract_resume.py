"""Extraction that is killed goes on, in this process and under Ray, and both make the same bytes."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import yaml
from disks import small_disk
from processes import wait_for

from v2meow import workspace as workspaces
from v2meow.config import load_recipe
from v2meow.data import clips, extract, quarantine, synthetic
from v2meow.data.extract import local, step
from v2meow.data.extract.partial import Partial, fingerprint
from v2meow.data.manifest import CLIPS, EXAMPLES, RAW, read_clips
from v2meow.files import write_json
from v2meow.train import fit

PARTIAL = EXAMPLES.with_name(".examples.partial")
RUN = """
import os, sys
from pathlib import Path
from v2meow.config import load_recipe
from v2meow.data import extract
place = Path(sys.argv[1])
print(extract.run(load_recipe(place / "recipe.yaml"), place))
"""
CHANGES = {"extract.batch": 2, "extract.shard_clips": 3, "data.holdout": 0.4}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A fitted workspace of 25 clips in 10 shards, and its examples extracted without interruption."""
    place = tmp_path_factory.mktemp("whole")
    (place / "recipe.yaml").write_text(yaml.safe_dump(tiny.values(CHANGES)))
    recipe = load_recipe(place / "recipe.yaml")
    synthetic.make(place / RAW, 0, 5)
    clips.run(recipe, place)
    for name in ("codec", "semantic", "joint"):
        fit.run(name, recipe, place)
    figures = extract.run(recipe, place)
    assert figures["shards"] == 10 and figures["examples"] == len(read_clips(place))
    return place


@pytest.fixture
def place(whole, tmp_path):
    """A copy of it without examples."""
    shutil.copytree(whole, tmp_path / "copy", ignore=shutil.ignore_patterns("examples"))
    return tmp_path / "copy"


def _contents(place):
    return {path.name: path.read_bytes() for path in (place / EXAMPLES).iterdir()}


def _finished_shards(place: Path) -> dict[str, int]:
    """Shards that are there, with when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in (place / PARTIAL).glob("*/part-*.parquet")}


def _kill_after(place: Path, shards: int) -> dict[str, int]:
    """Extract in a process of its own, end it with SIGKILL once it wrote so many shards; those that it left."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    child = subprocess.Popen([sys.executable, "-c", RUN, str(place)], env=environment, start_new_session=True)
    try:
        wait_for(lambda: child.poll() is not None or len(_finished_shards(place)) >= shards, 240)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    assert child.returncode == -signal.SIGKILL and not (place / EXAMPLES).exists()
    return _finished_shards(place)


def test_a_killed_extraction_makes_no_finished_shard_again(whole, place):
    """At full scale an extraction takes days, and machines are taken away every night."""
    left = _kill_after(place, 3)
    assert 3 <= len(left) < 10
    figures = extract.run(load_recipe(place / "recipe.yaml"), place)
    assert figures["shards_kept"] == len(left)
    assert {name: (place / EXAMPLES / name).stat().st_mtime_ns for name in left} == left
    assert _contents(place) == _contents(whole)
    assert not (place / PARTIAL).exists()


def _interrupted(place: Path, after: int = 2) -> None:
    """Extract until `after` shards are written."""

    class EnoughError(Exception):
        pass

    write, left = Partial.write, iter(range(after))

    def limited(self, number, batches):
        if next(left, None) is None:
            raise EnoughError
        write(self, number, batches)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(EnoughError):
        patch.setattr(Partial, "write", limited)
        extract.run(load_recipe(place / "recipe.yaml"), place)
    assert len(_finished_shards(place)) == after


def test_shards_of_another_recipe_are_not_gone_on_with(place):
    """Half of the ids would mean something else."""
    _interrupted(place)
    recipe = load_recipe(place / "recipe.yaml")
    changed = replace(recipe, data=replace(recipe.data, clip_seconds=1.0))
    assert extract.run(changed, place)["shards_kept"] == 0
    assert not (place / PARTIAL).exists()


@pytest.mark.parametrize(
    "touched", [CLIPS, "models/encoders/codec/model.safetensors", "models/encoders/joint/config.json"]
)
def test_the_fingerprint_covers_clips_and_encoders(place, touched):
    recipe = load_recipe(place / "recipe.yaml")
    before = fingerprint(recipe, place)
    content = (place / touched).read_bytes()
    (place / touched).write_bytes(content + b" ")
    assert fingerprint(recipe, place) != before


def test_how_the_work_is_spread_is_no_part_of_the_fingerprint(place):
    """A larger cluster could not go on with what a smaller one began."""
    recipe = load_recipe(place / "recipe.yaml")
    spread = replace(recipe, extract=replace(recipe.extract, workers=9, gpus=0.5))
    assert fingerprint(spread, place) == fingerprint(recipe, place)


def test_what_a_killed_process_was_writing_is_no_junk_in_the_examples(whole, place):
    _interrupted(place)
    (folder,) = (place / PARTIAL).iterdir()
    (folder / ".part-00002.4711.parquet").write_bytes(b"half of a shard")
    extract.run(load_recipe(place / "recipe.yaml"), place)
    assert _contents(place) == _contents(whole)


def test_a_run_killed_before_its_last_rename_ends_at_once(whole, place):
    recipe = load_recipe(place / "recipe.yaml")
    _interrupted(place, 9)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", _stop_at(place / EXAMPLES))
        extract.run(recipe, place)
    assert extract.run(recipe, place)["shards_kept"] == 10
    assert _contents(place) == _contents(whole)


def _stop_at(target: Path):
    replace_file = Path.replace

    def replace_or_stop(self, to):
        if to == target:
            raise KeyboardInterrupt
        return replace_file(self, to)

    return replace_or_stop


def test_a_full_disk_stops_the_run_and_more_room_lets_it_go_on(whole, place, tmp_path):
    """Listed as clips that cannot be read, all others would be left out of the catalogue."""
    with small_disk(tmp_path / "disk") as disk:
        (place / PARTIAL).symlink_to(disk)
        with pytest.raises(OSError, match=r"could not write .*part-\d+.parquet"):
            extract.run(load_recipe(place / "recipe.yaml"), place)
        assert len(_finished_shards(place)) < 10
        (place / PARTIAL).unlink()
    extract.run(load_recipe(place / "recipe.yaml"), place)
    assert _contents(place) == _contents(whole)


@pytest.mark.slow
def test_dvc_leaves_the_finished_shards_of_a_killed_step(whole, tmp_path):
    """It removes a step's outputs before it runs the step."""
    place = tmp_path / "place"
    workspaces.init(place, str(whole / "recipe.yaml"))
    shutil.copytree(whole, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("examples", "recipe.yaml"))
    write_json(place / "reports/validate.json", {"passed": True})
    quarantine.write(place, [])
    _interrupted(place, 4)
    with workspaces.owned(place):
        workspaces.run_stage(place, "extract")
    assert "shards_kept: 4" in (place / ".dvc/tmp/v2meow/extract.log").read_text()
    assert _contents(place) == _contents(whole)
    assert not (place / PARTIAL).exists()


@pytest.mark.slow
def test_ray_goes_on_with_what_one_process_began_and_makes_the_same_bytes(whole, place, monkeypatch):
    """Two ways to compute that differ in the last bit would make two catalogues."""
    ray = pytest.importorskip("v2meow.cluster").ray
    _interrupted(place, 5)
    left = _finished_shards(place)
    monkeypatch.setenv("RAY_ADDRESS", "local")  # asks for Ray, on this machine
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        figures = extract.run(load_recipe(place / "recipe.yaml"), place)
    finally:
        ray.shutdown()
    assert figures["shards_kept"] == len(left)
    assert {name: (place / EXAMPLES / name).stat().st_mtime_ns for name in left} == left
    assert _contents(place) == _contents(whole)
    assert not (place / PARTIAL).exists()


def test_ray_is_for_those_who_ask_for_it_and_have_it(monkeypatch):
    """Its start alone takes longer than a small catalogue; and where it is missing, the work can still be done."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    many = tiny.recipe({"extract.workers": 2})
    assert step.chosen(tiny.recipe()) is local.encode
    monkeypatch.setattr(step, "find_spec", lambda name: None)
    assert step.chosen(many) is local.encode
    monkeypatch.undo()
    assert step.chosen(many) is pytest.importorskip("v2meow.data.extract.on_ray").encode
