"""The command as people meet it: its exit status, and what it prints when things go wrong."""

import json
import signal
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import tiny_bundle
import yaml
from dvc.repo import Repo
from processes import alive, wait_for

from v2meow.cli import main

HEAVY = ("av", "dvc", "encodec", "great_expectations", "matplotlib", "numpy", "pandas", "pyarrow", "torch")


def v2meow(*arguments, cwd=None):
    """Run the command in this process."""
    status, printed, errors = 0, StringIO(), StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        chdir(cwd or Path.cwd()),
        redirect_stdout(printed),
        redirect_stderr(errors),
    ):
        patch.setattr(sys, "argv", ["v2meow", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            assert isinstance(end.code, int)
            status = end.code
    return subprocess.CompletedProcess(arguments, status, printed.getvalue(), errors.getvalue())


def process(*arguments, cwd=None, code="from v2meow.cli import main; main()"):
    """Run it in a process of its own, where what it imports may print, and its end is the interpreter's."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def assert_one_error_line(done, *words):
    assert done.returncode == 1, done
    assert done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_help_teaches_the_order_of_the_steps_without_heavy_imports():
    """A person who types --help waits for it; torch alone would take seconds."""
    code = f"""
import sys
from v2meow.cli import main
try:
    main()
finally:
    print("HEAVY", [name for name in {HEAVY} if name in sys.modules])
"""
    done = process("--help", code=code)
    assert done.returncode == 0
    assert "ingest → validate → fit" in done.stdout
    assert "v2meow demo" in done.stdout
    assert done.stdout.endswith("HEAVY []\n")


def test_every_command_of_the_pipeline_exists(untouched):
    """A renamed command would fail only in the middle of a run."""
    for stage in Repo(untouched).index.stages:
        program, *arguments = str(stage.cmd).split()
        assert program == "v2meow"
        assert_one_error_line(v2meow(*arguments, "--workspace", "nowhere"), "nowhere is not a workspace")


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["fit", "everything"], ["train"], ["init"], ["generate", "a.mp4"], ["synth", "x", "--videos", "1"]],
)
def test_wrong_usage_is_status_2(arguments):
    assert v2meow(*arguments).returncode == 2


def test_wrong_usage_has_no_traceback():
    done = process("nonsense")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["ingest"], ["run"], ["report"], ["models", "list"], ["models", "register"]])
def test_outside_a_workspace_the_error_says_how_to_make_one(tmp_path, command):
    assert_one_error_line(v2meow(*command, cwd=tmp_path), str(tmp_path), "v2meow init")


def test_init_reports_what_it_did_and_what_it_will_not_do(tmp_path):
    done = v2meow("init", "ws", cwd=tmp_path)
    assert done.returncode == 0
    assert "ws/data/raw" in done.stdout
    assert "left as it is" in v2meow("init", "ws", cwd=tmp_path).stdout
    assert_one_error_line(v2meow("init", ".", cwd=tmp_path), "not empty")
    assert_one_error_line(v2meow("init", "new", "--recipe", "huge", cwd=tmp_path), "no recipe 'huge'", "nano")
    assert_one_error_line(v2meow("init", "/proc/ws"), "/proc/ws")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ("seed: 0", ["stages.fine.widht: unknown key, did you mean width?", "stages.fine.width: missing"]),
        ("stages: [", ["recipe.yaml is not valid YAML"]),
    ],
)
def test_a_broken_recipe_is_one_line_with_every_key(fresh, edit, words):
    text = (fresh / "recipe.yaml").read_text()
    values = yaml.safe_load(text)
    values["stages"]["fine"]["widht"] = values["stages"]["fine"].pop("width")
    (fresh / "recipe.yaml").write_text(edit if "[" in edit else yaml.safe_dump(values))
    assert_one_error_line(v2meow("validate", cwd=fresh), "recipe.yaml", *words)


def test_a_step_before_its_turn_says_what_to_run_first(untouched):
    assert_one_error_line(process("validate", "--workspace", untouched), "clips.parquet", "v2meow ingest")


def test_an_unknown_step_is_answered_with_the_known_ones(untouched):
    assert_one_error_line(v2meow("run", "trian@fine", "--workspace", untouched), "'trian@fine'", "train@fine", "gate")


def test_a_failed_step_shows_its_own_reason_once(fresh):
    """The reason crosses two processes, DVC and the step; it must arrive whole, and the step's name with it."""
    done = process("run", cwd=fresh)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ingest failed: ")
    assert "ingest.log" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_generate_without_a_model_says_how_to_get_one(tmp_path, fresh):
    assert_one_error_line(process("generate", "a.mp4", "-o", "b.mp4", cwd=tmp_path), "a.mp4")  # the shipped one will do
    staged = v2meow("generate", "a.mp4", "-o", "b.mp4", "--model", "tune@staging", cwd=tmp_path)
    assert_one_error_line(staged, "no registry", "--model DIR or NAME@STAGE")
    assert_one_error_line(v2meow("generate", "a.mp4", "-o", "b.mp4", cwd=fresh), "no model", "v2meow run")
    assert_one_error_line(v2meow("generate", "a.mp4", "-o", "b.mp4", "--model", "nowhere"), "nowhere")
    unknown = v2meow("generate", "a.mp4", "-o", "b.mp4", "--model", "tune@production", cwd=fresh)
    assert_one_error_line(unknown, "tune")


def test_models_of_an_empty_registry(untouched):
    assert "nothing is registered" in v2meow("models", "list", "--workspace", untouched).stdout
    assert_one_error_line(v2meow("models", "show", "tune", "--workspace", untouched), "'tune'")
    assert_one_error_line(v2meow("models", "promote", "tune", "v1", "staging", "--workspace", untouched), "'tune'")
    assert_one_error_line(v2meow("models", "rollback", "tune", "production", "--workspace", untouched), "'tune'")
    assert_one_error_line(process("models", "register", "--workspace", untouched), "no verdict yet", "v2meow run")


def test_a_package_of_another_role_is_named_with_its_extra(untouched):
    """A generation-only installation has no DVC: a traceback would look like a broken package."""
    code = "import sys; sys.modules['dvc'] = None; from v2meow.cli import main; main()"
    assert_one_error_line(process("run", "--workspace", untouched, code=code), "dvc", "v2meow[pipeline]")


def test_a_fault_of_ours_keeps_its_traceback(untouched):
    """One line for a bug would leave nothing to report."""
    code = "from v2meow import cli, workspace; workspace.stages = lambda place: 1 // 0; cli.main()"
    done = process("run", "--workspace", untouched, code=code)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError" in done.stderr


def test_control_c_ends_the_step_too(fresh):
    """A step in its own session does not get the terminal's Ctrl-C by itself."""
    waiting = 'python -c \'import os, time; open("pid", "w").write(str(os.getpid())); time.sleep(60)\''
    pipeline = {"stages": {"wait": {"cmd": waiting, "outs": ["never"]}}}
    (fresh / "dvc.yaml").write_text(yaml.safe_dump(pipeline))
    command = [sys.executable, "-m", "v2meow.cli", "run"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts with & would ignore it
    try:
        run = subprocess.Popen(command, cwd=fresh, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    wait_for(lambda: (fresh / "pid").exists() and (fresh / "pid").read_text() != "")
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=30)
    assert run.returncode == 130
    assert errors.splitlines()[-1] == "interrupted"
    wait_for(lambda: not alive(int((fresh / "pid").read_text())))


def test_an_audit_writes_its_figures_and_a_bad_table_is_one_line(tmp_path):
    """Whoever audits needs the figures in a file, and no traceback for a heading that is missing."""
    bundle = tiny_bundle.assembled(tmp_path)
    for name in ("a", "b"):
        tiny_bundle.silent_video(tmp_path / f"{name}.mp4")
    table, out = tmp_path / "pairs.csv", tmp_path / "audit.json"
    table.write_text("video_a,video_b,factor\na.mp4,a.mp4,nothing\nb.mp4,b.mp4,nothing\n")
    done = v2meow("audit", table, "--out", out, "--model", bundle)
    assert done.returncode == 0 and done.stdout.startswith("2 pairs, 0 findings"), done
    assert json.loads(out.read_text())["factors"]["nothing"]["count"] == 2
    table.write_text("a,b\n")
    assert_one_error_line(v2meow("audit", table, "--out", out, "--model", bundle), "video_a,video_b,factor")
