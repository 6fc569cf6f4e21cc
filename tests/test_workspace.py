"""Workspaces with real git and real DVC; the steps are small scripts where their cost does not matter."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from processes import alive, wait_for

import v2meow
from v2meow import workspace
from v2meow.config import RecipeError, builtin_recipes, recipe_path
from v2meow.workspace.recover import discard_torn_files

REPOSITORY = Path(v2meow.__file__).parent.parent

TINY_PIPELINE = """
stages:
  first:
    cmd: python step.py first data/raw/a.mp4
    deps: [data/raw]
    outs: [data/first]
  second:
    foreach: [x, y]
    do:
      cmd: python step.py second-${item} data/first
      deps: [data/first]
      outs: ["data/second-${item}"]
  third:
    cmd: python step.py third data/second-x data/second-y
    deps: [data/second-x, data/second-y]
    metrics:
      - data/third: {cache: false}
"""
TINY_STEPS = ["first", "second@x", "second@y", "third"]

# Copies its inputs, one after the other, to data/NAME; `hooks/NAME.py` is run in between.
STEP = """
import sys, os
from pathlib import Path
from v2meow.workspace import watch_owner
watch_owner()
name, *inputs = sys.argv[1:]
Path("ran").open("a").write(name + "\\n")
hook = Path("hooks") / f"{name}.py"
if hook.exists():
    exec(hook.read_text())
Path("data", name).write_text(f"{name}(" + ",".join(Path(path).read_text() for path in inputs) + ")")
"""
RESULT = "third(second-x(first(film)),second-y(first(film)))"

DRIVER = """
import sys
from pathlib import Path
from v2meow import workspace
place = Path(sys.argv[1])
with workspace.owned(place):
    print("owned", flush=True)
    workspace.run_stale(place, workspace.stages(place), lambda *change: print(*change, flush=True))
"""


def write_tiny(place):
    """Make a fresh workspace one whose four steps cost nothing."""
    (place / "dvc.yaml").write_text(TINY_PIPELINE)
    (place / "step.py").write_text(STEP)
    (place / "hooks").mkdir()
    (place / "data/raw/a.mp4").write_text("film")
    return place


@pytest.fixture
def tiny(fresh):
    """A workspace whose four steps cost nothing."""
    return write_tiny(fresh)


@pytest.fixture(scope="module")
def ran(untouched, tmp_path_factory):
    """Such a workspace in which every step has run, and the changes of state meanwhile."""
    place = write_tiny(shutil.copytree(untouched, tmp_path_factory.mktemp("ran") / "ws", symlinks=True))
    return place, run(place)


@pytest.fixture
def finished(ran, tmp_path):
    """A copy of that workspace."""
    return shutil.copytree(ran[0], tmp_path / "finished", symlinks=True)


def run(place, *names):
    """Run those of the steps that are stale, by default of all; the changes of state as (name, state)."""
    changes = []
    with workspace.owned(place):
        steps = list(names) or workspace.stages(place)
        workspace.run_stale(place, steps, lambda name, state, _: changes.append((name, state)))
    return changes


def drive(place, **kwargs):
    """Another process that runs every stale step."""
    command = [sys.executable, "-c", DRIVER, str(place)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


def git(place, *arguments):
    return subprocess.run(["git", *arguments], cwd=place, check=True, capture_output=True, text=True).stdout.strip()


# The folder


def test_init_makes_a_committed_workspace_and_repeating_it_changes_nothing(tmp_path):
    place = tmp_path / "ws"
    assert workspace.init(place, "nano")
    assert workspace.is_workspace(place)
    assert git(place, "status", "--porcelain") == ""
    assert (place / "recipe.yaml").read_bytes() == recipe_path("nano").read_bytes()
    assert (place / "dvc.yaml").read_bytes() == (REPOSITORY / "dvc.yaml").read_bytes()
    head = git(place, "rev-parse", "HEAD")
    assert not workspace.init(place, "nano")
    assert git(place, "rev-parse", "HEAD") == head


def test_init_refuses_a_folder_that_holds_something_else(tmp_path):
    """A workspace in a person's home or source folder would put its files under git."""
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(workspace.WorkspaceError, match="not empty and is not a workspace"):
        workspace.init(tmp_path, "nano")
    with pytest.raises(workspace.WorkspaceError, match="is a file"):
        workspace.init(tmp_path / "thesis.txt", "nano")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_init_with_an_unusable_recipe_makes_nothing(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("name: mine\n")
    with pytest.raises(RecipeError):
        workspace.init(tmp_path / "ws", str(recipe))
    assert not (tmp_path / "ws").exists()


@pytest.mark.parametrize("reached", [".v2meow-init", ".git/HEAD", ".dvc/config", "dvc.yaml", ".git/index"])
def test_init_killed_half_way_is_finished_by_the_next(tmp_path, reached):
    """A demo killed in its first second would otherwise find its folder "not empty and not a workspace"."""
    place = tmp_path / "ws"
    command = [sys.executable, "-c", "import sys; from v2meow import cli; cli.main()", "init", str(place)]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    wait_for((place / reached).exists)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    workspace.init(place, "nano")
    assert workspace.is_workspace(place)
    assert git(place, "status", "--porcelain") == ""
    assert git(place, "fsck", "--no-dangling") == ""


def test_init_in_a_git_hook_leaves_the_outer_repository_alone(tmp_path, monkeypatch):
    """Git exports GIT_DIR and GIT_INDEX_FILE to hooks: obeying them commits the workspace into that repository."""
    outer = tmp_path / "outer"
    outer.mkdir()
    git(outer, "init", "--quiet")
    monkeypatch.setenv("GIT_DIR", str(outer / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(outer / ".git" / "index"))
    workspace.init(tmp_path / "ws", "nano")
    monkeypatch.undo()
    assert not (outer / ".git" / "index").exists()
    assert git(tmp_path / "ws", "log", "--format=%s") == "New workspace, recipe nano"


def test_init_commits_for_someone_who_never_told_git_a_name(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    workspace.init(tmp_path / "ws", "nano")
    assert git(tmp_path / "ws", "log", "--format=%ae") == "v2meow@localhost"


def test_find_takes_the_nearest_workspace_upwards(fresh, tmp_path):
    assert workspace.find(fresh / "data" / "raw") == fresh
    with pytest.raises(workspace.WorkspaceError, match="v2meow init"):
        workspace.find(tmp_path)


def test_snapshot_commits_reports_and_never_media_or_models(finished):
    """Gigabytes of video in git cannot be taken out again."""
    (finished / "reports").mkdir()
    (finished / "reports" / "metrics.json").write_text("{}")
    (finished / "reports" / "report.html").write_text("<html>")
    (finished / "data" / ".clips.abc").mkdir()
    (finished / "data" / ".clips.abc" / "clips.parquet").write_text("left by a killed step")
    (finished / "registry").mkdir()
    (finished / "registry" / "big").write_text("bundle")
    workspace.snapshot(finished, "first run")
    tracked = set(git(finished, "ls-files").splitlines())
    assert {"dvc.lock", "dvc.yaml", "recipe.yaml", "reports/metrics.json", "data/third", "data/.gitignore"} <= tracked
    assert not {path for path in tracked if "raw" in path or "first" in path or ".clips" in path or "registry" in path}
    assert "reports/report.html" not in tracked
    made = workspace.version(finished)
    workspace.snapshot(finished, "nothing changed")
    assert workspace.version(finished) == made
    assert git(finished, "log", "-1", "--format=%s") == "first run"


def test_checkpoints_of_training_stay_out_of_git(fresh):
    """They are gigabytes that the next hour replaces."""
    (fresh / "checkpoints/coarse").mkdir(parents=True)
    (fresh / "checkpoints/coarse/state").write_text("weights")
    assert git(fresh, "status", "--porcelain") == ""


def test_version_before_the_first_run_says_so(untouched):
    with pytest.raises(workspace.WorkspaceError, match="nothing has run"):
        workspace.version(untouched)


# Videos


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "films"
    (folder / "live").mkdir(parents=True)
    (folder / "a.mp4").write_text("A")
    (folder / "a.json").write_text("{}")
    (folder / "live" / "b.MOV").write_text("B")
    (folder / "notes.txt").write_text("not a film")
    (folder / ".hidden.mp4").write_text("not wanted")
    return folder


def raw_files(place):
    raw = place / "data" / "raw"
    return {str(path.relative_to(raw)): path.read_text() for path in raw.rglob("*") if path.is_file()}


def test_add_videos_brings_videos_with_sidecars_under_their_own_folders(fresh, source):
    assert workspace.add_videos(fresh, source) == workspace.AddedVideos(added=2, unchanged=0)
    assert raw_files(fresh) == {"a.mp4": "A", "a.json": "{}", "live/b.MOV": "B"}


def test_add_videos_again_brings_only_what_changed(fresh, source):
    """A touched file is the same film, an edited one of the same length is not."""
    workspace.add_videos(fresh, source)
    (source / "a.mp4").unlink()
    (source / "a.mp4").write_text("A")
    os.utime(source / "a.mp4", (1, 1))
    (source / "live" / "b.MOV").unlink()
    (source / "live" / "b.MOV").write_text("C")
    assert workspace.add_videos(fresh, source) == workspace.AddedVideos(added=1, unchanged=1)
    assert raw_files(fresh)["live/b.MOV"] == "C"


def test_add_videos_does_not_walk_into_the_workspace_itself(untouched, source):
    """`v2meow demo --videos .` makes its workspace inside the folder of videos."""
    place = shutil.copytree(untouched, source / "ws", symlinks=True)
    workspace.add_videos(place, source)
    assert workspace.add_videos(place, source).added == 0
    assert set(raw_files(place)) == {"a.mp4", "a.json", "live/b.MOV"}


@pytest.mark.parametrize(
    ("folder", "reason"),
    [("nowhere", "no such folder"), ("films/a.mp4", "not a folder"), ("empty", "no video files"), ("text", "no video")],
)
def test_add_videos_refuses_in_one_line(fresh, tmp_path, source, folder, reason):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes.txt").write_text("hello")
    with pytest.raises(workspace.WorkspaceError, match=reason) as caught:
        workspace.add_videos(fresh, tmp_path / folder)
    assert "\n" not in str(caught.value)
    assert folder in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_add_videos_names_the_folder_that_it_may_not_read(fresh, source):
    (source / "live").chmod(0)
    try:
        with pytest.raises(workspace.WorkspaceError, match="live: Permission denied"):
            workspace.add_videos(fresh, source)
    finally:
        (source / "live").chmod(0o755)


# The pipeline that travels in the package


@pytest.fixture(scope="module")
def up_to_date(untouched, tmp_path_factory):
    """A workspace with the real pipeline, where DVC takes invented outputs for the finished work of every step."""
    place = shutil.copytree(untouched, tmp_path_factory.mktemp("pipeline") / "ws", symlinks=True)
    (place / "data/raw/a.mp4").write_text("film")
    files = "data/clips/c data/rejected.csv reports/validate.json reports/features.json reports/metrics.json"
    folders = "encoders/codec encoders/semantic encoders/joint semantic coarse fine bundle"
    samples = ["data/examples/e", "reports/samples/s.wav", "reports/verdict.json"]
    checks = "data/groups.parquet data/quarantine.parquet reports/drift.json"
    checks += " reports/data-docs/validate/v reports/data-docs/features/f"
    for name in [*files.split(), *checks.split(), *samples, *(f"models/{folder}/model" for folder in folders.split())]:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(name)
    command = [sys.executable, "-m", "dvc", "commit", "--force", "--quiet"]
    subprocess.run(command, cwd=place, check=True)
    assert workspace.stale(place) == []
    return place


def test_pipeline_is_the_designed_graph(up_to_date):
    """A lost edge lets a step read what another step has not made yet."""
    fits = ("fit@codec", "fit@semantic", "fit@joint")
    trains = ("train@semantic", "train@coarse", "train@fine")
    assert workspace.graph(up_to_date) == {
        "ingest": (),
        "validate": ("ingest",),
        **dict.fromkeys(fits, ("ingest", "validate")),
        "extract": ("ingest", "validate", *fits),
        "check-features": ("ingest", "validate", "extract"),
        **dict.fromkeys(trains, ("extract", "check-features")),
        "evaluate": ("ingest", *fits, "extract", *trains),
        "gate": ("evaluate",),
    }
    assert workspace.stages(up_to_date) == list(workspace.graph(up_to_date))


@pytest.mark.parametrize(
    ("section", "stale"),
    [
        ("generate.context_seconds", ["evaluate"]),
        ("evaluate.permutations", ["evaluate"]),
        ("gate.0.at_least", ["gate"]),
        ("stages.fine.steps", ["train@fine"]),
        ("checks.min_clips", ["validate", "check-features"]),
        ("joint.steps", ["fit@joint", "extract", "check-features", "train@semantic", "train@coarse", "train@fine"]),
        ("media.timeout_s", ["ingest", "evaluate"]),
    ],
)
def test_a_change_in_the_recipe_makes_stale_what_reads_it(up_to_date, section, stale):
    """A section missing from dvc.yaml lets an edited recipe silently do nothing; one too many retrains for hours."""
    recipe = up_to_date / "recipe.yaml"
    before = recipe.read_text()
    values = yaml.safe_load(before)
    *path, last = (int(key) if key.isdigit() else key for key in section.split("."))
    place = values
    for key in path:
        place = place[key]
    place[last] += 1
    try:
        recipe.write_text(yaml.safe_dump(values))
        assert workspace.stale(up_to_date) == stale
    finally:
        recipe.write_text(before)


def test_every_section_named_in_the_pipeline_is_in_every_recipe(up_to_date):
    """DVC runs a step whose section is missing from the recipe each time anew."""
    locked = yaml.safe_load((up_to_date / "dvc.lock").read_text())["stages"]
    for name in builtin_recipes():
        recipe = yaml.safe_load(recipe_path(name).read_text())
        for step in locked.values():
            for section in step["params"]["recipe.yaml"]:
                value = recipe
                for key in section.split("."):
                    assert key in value, (name, section)
                    value = value[key]


def test_steps_after_a_broken_pipeline_file_are_one_error_line(tiny):
    (tiny / "dvc.yaml").write_text("stages: [")
    with pytest.raises(workspace.WorkspaceError) as caught:
        workspace.stages(tiny)
    assert "\n" not in str(caught.value)


# Running


def test_stale_steps_run_in_order_and_then_never_again(ran):
    place, changes = ran
    assert [name for name, state in changes if state == "done"] == TINY_STEPS
    assert (place / "data/third").read_text() == RESULT
    assert run(place) == [(name, "unchanged") for name in TINY_STEPS]
    assert (place / "ran").read_text().split() == ["first", "second-x", "second-y", "third"]


def test_a_step_that_gives_the_same_result_stops_the_wave(finished):
    """What follows a step that ran must not run when its output is what it was."""
    (finished / "data/raw/b.mp4").write_text("another film, which the first step ignores")
    assert [state for _, state in run(finished) if state != "running"] == ["done", *["unchanged"] * 3]


def test_with_dependencies_adds_what_comes_before_and_refuses_unknown_names(tiny):
    assert workspace.with_dependencies(tiny, ["second@y"]) == ["first", "second@y"]
    with pytest.raises(workspace.WorkspaceError, match=r"'secnd'.*first, second@x, second@y, third"):
        workspace.with_dependencies(tiny, ["secnd"])


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        ("print('loss 2.3'); print('error: no usable video', file=sys.stderr); sys.exit(1)", "no usable video"),
        ("print('loss 2.3', flush=True); raise RuntimeError('shape [3, 4]')", r"RuntimeError: shape \[3, 4\]"),
        ("Path('data/raw/a.mp4').unlink(); sys.exit(0)", "output 'data/first' does not exist|first"),
    ],
)
def test_a_failed_step_tells_its_own_reason_and_its_log(tiny, hook, words):
    """DVC's own "failed to reproduce" says nothing, and its log is not shown."""
    (tiny / "hooks/first.py").write_text(hook)
    with pytest.raises(workspace.StageError, match=words) as caught:
        run(tiny)
    assert "\n" not in str(caught.value)
    log = Path(str(caught.value).rpartition("(log: ")[2].removesuffix(")"))
    assert "step.py first" in log.read_text()


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_a_killed_step_is_told_as_killed_whatever_the_shell(tiny, shell, monkeypatch):
    """DVC starts steps through $SHELL: bash hands its exit status on as -9, dash as 137."""
    monkeypatch.setenv("SHELL", shell)
    (tiny / "hooks/first.py").write_text("os.kill(os.getpid(), 9)")
    with pytest.raises(workspace.StageError, match=r"killed by signal 9; .* memory runs out"):
        run(tiny)


def test_progress_of_a_step_reaches_its_driver(tiny):
    (tiny / "hooks/first.py").write_text(
        "from v2meow.progress import progress\nimport time\n"
        "with progress('cutting', 4) as bar:\n    for i in range(4):\n        bar.advance(note='n'); time.sleep(0.4)\n"
    )
    seen = []
    with workspace.owned(tiny):
        workspace.run_stage(tiny, "first", seen.append)
    assert {"label": "cutting", "done": 2, "total": 4, "note": "n"} in seen


def test_a_command_that_is_no_step_fails_like_one(tiny):
    with workspace.owned(tiny), pytest.raises(workspace.StageError, match=r"catalogue failed: .*nowhere"):
        workspace.run_command(tiny, "catalogue", ["init", "x", "--recipe", "nowhere"])


def test_a_run_waits_for_a_dvc_command_of_a_person(tiny):
    """DVC refuses files that another DVC process works on, at once and with twelve lines."""
    (tiny / "hooks/first.py").write_text("import time; Path('begun').touch(); time.sleep(3)")
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", "first"]
    person = subprocess.Popen(command, cwd=tiny, env=os.environ | {"PATH": search}, stdout=subprocess.DEVNULL)
    wait_for((tiny / "begun").exists)
    run(tiny, "first", "second@x")
    assert person.wait() == 0
    assert (tiny / "data/second-x").read_text() == "second-x(first(film))"


# Ownership and death


def test_a_second_driver_is_refused_with_the_pid_of_the_first(tiny):
    """Two drivers would delete each other's outputs."""
    (tiny / "hooks/first.py").write_text("import time; time.sleep(60)")
    first = drive(tiny)
    wait_for(lambda: (tiny / ".dvc/tmp/v2meow/first.log").exists())
    with pytest.raises(workspace.WorkspaceError, match=rf"another run is using .* \(pid {first.pid}\)"):
        run(tiny)
    first.kill()
    first.wait()


@pytest.mark.parametrize("step", ["first", "third"])
def test_a_killed_driver_leaves_no_orphan_and_the_next_run_finishes(tiny, step):
    """An orphan trains on for hours and writes over the outputs of the next run."""
    hook = tiny / "hooks" / f"{step}.py"
    hook.write_text("import time; Path('pid').write_text(str(os.getpid())); Path('begun').touch(); time.sleep(60)")
    driver = drive(tiny)
    wait_for((tiny / "begun").exists)
    orphan = int((tiny / "pid").read_text())
    driver.kill()
    driver.wait()
    hook.unlink()
    run(tiny)
    assert not alive(orphan)
    assert (tiny / "data/third").read_text() == RESULT
    assert workspace.stale(tiny) == []


def test_a_run_killed_again_and_again_comes_to_its_end(tiny):
    """Wherever the kill falls, also inside DVC's own bookkeeping, what is finished stays finished."""
    delay, kills = 0.7, 0
    while True:
        driver = drive(tiny, start_new_session=True)
        try:
            _, errors = driver.communicate(timeout=delay)
        except subprocess.TimeoutExpired:
            kills += 1
            delay *= 1.6
            driver.kill()
            driver.communicate()
            continue
        assert driver.returncode == 0, errors
        break
    assert kills > 1
    assert (tiny / "data/third").read_text() == RESULT
    assert workspace.stale(tiny) == []


def test_a_machine_that_dies_whole_is_recovered_from(tiny):
    """Driver, DVC and step die at once: DVC's note of running steps stays behind."""
    hook = tiny / "hooks" / "second-x.py"
    hook.write_text("import time; Path('pid').write_text(str(os.getpid())); Path('begun').touch(); time.sleep(60)")
    driver = drive(tiny)
    wait_for((tiny / "begun").exists)
    group = os.getpgid(int((tiny / "pid").read_text()))
    driver.kill()
    os.killpg(group, signal.SIGKILL)
    driver.wait()
    assert "data/second-x" in (tiny / ".dvc/tmp/rwlock").read_text()
    hook.unlink()
    run(tiny)
    assert (tiny / "data/third").read_text() == RESULT


TORN = ["", "{", "schema: '2.0'\nstages:\n  first:\n    cmd: [", "schema: '2.0'\n"]


@pytest.mark.parametrize("torn", TORN)
def test_a_torn_lock_file_is_known_as_such(tmp_path, torn):
    """DVC rewrites dvc.lock in place; half of it makes every later DVC command fail."""
    (tmp_path / "dvc.lock").write_text(torn)
    discard_torn_files(tmp_path)
    assert not (tmp_path / "dvc.lock").exists()


def test_torn_lock_files_cost_no_step(finished):
    (finished / "dvc.lock").write_text(TORN[2])
    (finished / ".dvc/tmp/rwlock").write_text('{"write": {')
    run(finished)
    assert workspace.stale(finished) == []
    assert (finished / "ran").read_text().split() == ["first", "second-x", "second-y", "third"]


def test_a_sound_lock_file_is_kept(finished):
    """Without it, every run would look at all outputs again."""
    before = (finished / "dvc.lock").read_bytes()
    discard_torn_files(finished)
    assert (finished / "dvc.lock").read_bytes() == before


def note_running(place, pid):
    path = str(place / "data" / "first")
    (place / ".dvc/tmp").mkdir(exist_ok=True)
    (place / ".dvc/tmp/rwlock").write_text(json.dumps({"write": {path: {"pid": pid, "cmd": "dvc repro"}}, "read": {}}))


def test_a_note_of_a_pid_that_another_program_has_now_is_discarded(tiny):
    """After a container's restart the pids of the killed run belong to others, and DVC would wait for them forever."""
    note_running(tiny, os.getpid())
    run(tiny, "first")
    assert (tiny / "data/first").read_text() == "first(film)"


def test_a_note_of_a_living_dvc_is_kept(tiny):
    command = [sys.executable, "-c", "import time; time.sleep(60)", "dvc"]
    process = subprocess.Popen(command)
    note_running(tiny, process.pid)
    discard_torn_files(tiny)
    assert (tiny / ".dvc/tmp/rwlock").exists()
    process.kill()
    process.wait()


def test_a_step_whose_workspace_was_taken_over_ends(tiny):
    """The next run may take the lock between two looks of an orphan at it."""
    with workspace.owned(tiny):
        lock = tiny / ".dvc" / "tmp" / "v2meow.lock"
        code = "import time; from v2meow.workspace import watch_owner; watch_owner(); time.sleep(60)"
        orphan = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"V2MEOW_OWNER_LOCK": f"1@{lock}"})
        assert orphan.wait(30) == 75


def test_a_step_ends_with_its_dvc(tiny):
    """The kernel's out-of-memory killer may take DVC and leave the step."""
    (tiny / "hooks/first.py").write_text(
        "import time, signal\nPath('pid').write_text(str(os.getpid()))\nos.kill(os.getppid(), 9); time.sleep(60)"
    )
    (tiny / "dvc.yaml").write_text(TINY_PIPELINE.replace("cmd: python", "cmd: exec python"))
    with pytest.raises(workspace.StageError):
        run(tiny)
    wait_for(lambda: not alive(int((tiny / "pid").read_text())))
