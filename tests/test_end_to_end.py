"""The whole life of a model through the command line: videos, every step, registry, music for a video."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import yaml

from v2meow.config import MediaConfig
from v2meow.media import Reader, read_wav

CHANGES = {
    "data.holdout": 0.4,
    "checks.min_clips": 2,
    "evaluate.permutations": 100,
    "gate": [{"metric": "audio.clipping_share", "at_most": 1.0}],
}


def v2meow(*arguments: str, cwd: Path) -> str:
    """Run the real command; its standard output."""
    command = [sys.executable, "-m", "v2meow.cli", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workspace in which every step has run on a small synthetic catalogue."""
    folder = tmp_path_factory.mktemp("life")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny.values(CHANGES)))
    v2meow("init", "place", "--recipe", "tiny.yaml", cwd=folder)
    v2meow("synth", "place/data/raw", "--videos", "12", cwd=folder)
    v2meow("run", cwd=folder / "place")
    return folder / "place"


@pytest.mark.slow
def test_every_step_leaves_what_the_next_person_looks_for(trained):
    metrics = json.loads((trained / "reports/metrics.json").read_text())
    verdict = json.loads((trained / "reports/verdict.json").read_text())
    assert verdict["passed"] and verdict["bundle"] == metrics["bundle"]
    assert metrics["videos"] >= 3
    assert {"tempo", "mode", "timbre", "energy"} == set(metrics["planted"])
    assert all(found["count"] == metrics["videos"] for found in metrics["planted"].values())
    assert 0 <= metrics["contradicted"]["prompt"] + metrics["contradicted"]["picture"] <= 1
    assert metrics["planted"]["energy"]["ceiling"] > 0.5  # even this codec keeps the level
    assert (trained / "models/bundle/MODEL_CARD.md").is_file()


@pytest.mark.slow
def test_a_finished_workspace_has_its_report_and_nothing_to_run(trained):
    """Repeating finished work would cost hours at full scale; a report is no work."""
    v2meow("report", cwd=trained)
    assert "<html" in (trained / "reports/report.html").read_text()
    assert v2meow("run", cwd=trained).startswith("0 of 12 steps ran")


@pytest.mark.slow
def test_a_registered_model_scores_a_video_and_a_seed_repeats_it(trained, tmp_path):
    v2meow("models", "register", cwd=trained)
    v2meow("models", "promote", "v2meow", "v1", "staging", cwd=trained)
    video = min((trained / "data/raw").glob("*.mp4"))
    for name in ("a", "b"):
        arguments = ("--model", "v2meow@staging", "--seed", "3", "--seconds", "3.3", "--wav")
        v2meow("generate", str(video), "-o", str(tmp_path / f"{name}.mp4"), *arguments, cwd=trained)
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    waveform, rate = read_wav(tmp_path / "a.wav")
    assert len(waveform) / rate == pytest.approx(3.3, abs=0.02)
    assert np.isfinite(waveform).all()


@pytest.mark.slow
def test_the_scored_video_carries_the_music(trained, tmp_path):
    """The soundtrack must be what was generated, under the whole picture."""
    video = max((trained / "data/raw").glob("*.mp4"))
    prompt = ("--prompt", "fast loud bell music in a major key")
    v2meow("generate", str(video), "-o", str(tmp_path / "out.mp4"), "--wav", *prompt, cwd=trained)
    limits = MediaConfig(timeout_s=60, memory_mib=1024, max_pixels=10**7, max_seconds=60)
    with Reader(limits) as reader:
        found = reader.probe(tmp_path / "out.mp4")
        heard = reader.waveform(tmp_path / "out.mp4", 16_000)
    made, _ = read_wav(tmp_path / "out.wav")
    assert found.seconds == pytest.approx(6.0, abs=0.02)
    assert found.audio is not None
    assert found.audio.seconds == pytest.approx(6.0, abs=0.02)
    assert np.corrcoef(heard[: len(made)], made[: len(heard)])[0, 1] > 0.9
