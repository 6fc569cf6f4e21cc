"""The model that comes with the package: whole, small, measured, and used where nothing else is named."""

import json
import subprocess
import sys

import numpy as np
import pytest

from v2meow import bundle, release
from v2meow.media import read_wav, write_video

NANO = release.SHIPPED / "nano"


def test_it_is_whole_and_small():
    """It lies in git and in every installation."""
    digest = bundle.verify(NANO)
    assert sum(file.stat().st_size for file in NANO.rglob("*") if file.is_file()) <= 25e6
    verdict = json.loads((release.SHIPPED / "nano-verdict.json").read_text())
    metrics = json.loads((release.SHIPPED / "nano-metrics.json").read_text())
    assert verdict["bundle"] == metrics["bundle"] == digest
    assert (NANO / "MODEL_CARD.md").is_file() and (NANO / "recipe.yaml").is_file()


def test_outside_of_any_workspace_it_is_the_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert release.find_model(None, None) == release.find_model("nano", None) == NANO


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nano").mkdir()
    with pytest.raises(bundle.BundleError, match="nano is not a bundle"):
        release.find_model("nano", None)


@pytest.mark.slow
def test_it_makes_music_for_any_video(tmp_path):
    """Right after set-up: nothing trained, nothing downloaded; as loud as music and never clipped."""
    frames = [np.full((64, 64, 3), 40 + 9 * number, np.uint8) for number in range(24)]
    write_video(tmp_path / "any.mp4", frames, 8, np.zeros(3 * 16_000, np.float32), 16_000)
    command = [
        sys.executable,
        "-c",
        "from v2meow.cli import main; main()",
        "generate",
        "any.mp4",
        "-o",
        "out.mp4",
        "--wav",
    ]
    done = subprocess.run([*command, "--prompt", "slow bell music"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    music, rate = read_wav(tmp_path / "out.wav")
    level = 10 * np.log10(np.mean(music.astype(np.float64) ** 2))
    assert len(music) == 3 * rate and -45 < level < -6
    assert np.abs(music).max() < 0.999
