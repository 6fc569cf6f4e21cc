"""SIGTERM: what runs stops soon, exits with status 75, and goes on to the same bytes when it is started again."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from catalogues import write_examples
from processes import alive, wait_for

from v2meow import workspace
from v2meow.preempt import CONTINUE_LATER, Interrupted, asked_to_stop
from v2meow.train import course, step

CHANGES = {
    "stages.semantic.steps": 400,
    "stages.semantic.max_epochs": 1000,
    "stages.semantic.dropout": 0.2,
    "stages.semantic.ema": 0.9,
    "stages.semantic.checkpoint_steps": 1000,  # what there is to go on from is written at SIGTERM alone
}
LAST_WORDS = "train semantic stopped after "
PIPELINE = {
    "stages": {
        "train": {
            "foreach": ["semantic"],
            "do": {"cmd": "v2meow train ${item}", "deps": ["data/examples"], "outs": ["models/${item}"]},
        },
        "after": {"cmd": "touch after", "deps": ["models/semantic"], "outs": ["after"]},
    }
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workspace with examples, and the files of a model that was trained there without a disturbance."""
    place = tmp_path_factory.mktemp("preempt") / "ws"
    workspace.init(place, "nano")
    (place / "recipe.yaml").write_text(yaml.safe_dump(tiny.values(CHANGES)))
    (place / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE))
    write_examples(place, tiny.recipe(CHANGES))
    step.run("semantic", tiny.recipe(CHANGES), place)
    files = _files(place)
    shutil.rmtree(place / "models")
    return place, files


@pytest.fixture
def place(trained, tmp_path):
    return shutil.copytree(trained[0], tmp_path / "ws", symlinks=True)


def _files(place: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (place / "models/semantic").iterdir()}


def _start(place: Path, *arguments: str, **more: str) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())} | more  # other sums in other parts
    command = [sys.executable, "-m", "v2meow.cli", *arguments]
    return subprocess.Popen(command, cwd=place, env=environment, stderr=subprocess.PIPE, text=True)


def _finish(place: Path, *arguments: str) -> str:
    child = _start(place, *arguments)
    said = child.communicate(timeout=120)[1]
    assert child.returncode == 0, said
    return said


def _at_work(progress: Path) -> bool:
    """Whether some steps have been made."""
    return progress.exists() and '"done"' in progress.read_text()


@pytest.mark.slow
def test_a_training_that_is_asked_to_stop_goes_on_to_the_same_bytes(trained, place):
    """A machine that is needed elsewhere gives 30 s: without a checkpoint in them, hours are lost."""
    progress = place / "progress.json"
    child = _start(place, "train", "semantic", V2MEOW_PROGRESS=str(progress))
    wait_for(lambda: _at_work(progress), 60)
    child.send_signal(signal.SIGTERM)
    said = child.communicate(timeout=30)[1]
    assert child.returncode == CONTINUE_LATER == 75, said
    last = said.splitlines()[-1]
    assert last.startswith(LAST_WORDS) and last.endswith(" steps: start it again to go on")
    steps = int(last.removeprefix(LAST_WORDS).split()[0])
    assert [path.name for path in (place / "checkpoints/semantic").iterdir()] == [f"step-{steps:08d}"]
    assert 0 < steps < 400 and not (place / "models/semantic").exists()
    assert f"train semantic goes on after {steps} steps" in _finish(place, "train", "semantic")
    assert _files(place) == trained[1]


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["run", "all"])
def test_a_run_that_is_asked_to_stop_stops_its_training_and_goes_on_later(trained, place, whom):
    """Of a pod only the first process is asked, of a batch job all of them: DVC, in between, dies at once."""
    run = _start(place, "run")
    told = place / ".dvc/tmp/v2meow"
    wait_for(lambda: _at_work(told / "train@semantic.progress.json"), 60)
    training = int((told / "train@semantic.pid").read_text())
    for pid in {"run": [run.pid], "all": [run.pid, *_ancestors(training, run.pid)]}[whom]:
        os.kill(pid, signal.SIGTERM)
    said = run.communicate(timeout=30)[1]
    assert run.returncode == CONTINUE_LATER, said
    assert said.splitlines()[-1].startswith("train@semantic was interrupted: the same command goes on from there")
    assert "failed" not in said and not alive(training)
    assert LAST_WORDS in (told / "train@semantic.log").read_text()
    assert not (place / "models/semantic").exists() and not (place / "after").exists()
    _finish(place, "run")
    assert "goes on after " in (told / "train@semantic.log").read_text()
    assert _files(place) == trained[1] and (place / "after").exists()


def _ancestors(pid: int, last: int) -> list[int]:
    """The process and those that started it, below `last`."""
    found = []
    while pid != last:
        found.append(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found


@pytest.mark.slow
def test_a_step_that_cannot_be_stopped_is_ended_with_its_run(place):
    """Most steps are short: they are begun again, and nobody waits for them in vain."""
    waiting = 'python -c \'import os, time; open("pid", "w").write(str(os.getpid())); time.sleep(60)\''
    (place / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"wait": {"cmd": waiting, "outs": ["never"]}}}))
    run = _start(place, "run")
    wait_for(lambda: (place / "pid").exists() and (place / "pid").read_text() != "", 60)
    run.send_signal(signal.SIGTERM)
    said = run.communicate(timeout=15)[1]
    assert run.returncode == CONTINUE_LATER, said
    assert said.splitlines()[-1].startswith("wait was interrupted")
    wait_for(lambda: not alive(int((place / "pid").read_text())))


def test_a_request_is_noticed_inside_the_block_only():
    """The handler of whoever else uses the process must be there again afterwards."""
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("other"))
    try:
        with asked_to_stop() as asked:
            assert not asked()
            os.kill(os.getpid(), signal.SIGTERM)
            assert asked() and asked() and not seen
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == ["other"]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_nothing_is_installed():
    """Python forbids it there: a training in a thread must run all the same."""
    before, answers = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with asked_to_stop() as asked:
            answers.append((asked(), signal.getsignal(signal.SIGTERM) is before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [(False, True)]


def test_who_is_asked_before_the_held_out_loss_does_not_begin_with_it(tmp_path, monkeypatch):
    """It takes minutes on a large catalogue, and SIGKILL follows after 30 s."""
    recipe = tiny.recipe({"stages.semantic.checkpoint_steps": 2})
    whole = course.train

    def train(*arguments):
        whole(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(course, "train", train)
    with pytest.raises(Interrupted, match="stopped while it measured its held-out loss: start it again"):
        step.run("semantic", recipe, write_examples(tmp_path, recipe))
    assert [path.name for path in (tmp_path / "checkpoints/semantic").iterdir()] == ["step-00000004"]
