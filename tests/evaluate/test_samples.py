"""What is kept to listen to shows a model at its best and at its worst, each piece beside its controls."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from tiny_bundle import RATE, silent_video

from v2meow.data.manifest import CLIPS, Clip, write_clips
from v2meow.evaluate import samples
from v2meow.evaluate.material import Material, Music
from v2meow.files import read_json
from v2meow.media import Reader, read_wav

COUNT = 4


@pytest.fixture
def material(tmp_path) -> Material:
    """Held-out clips of one second, the last of a video that is not there any more; each sound is its row number."""
    recipe = tiny.recipe()
    examples = tiny.examples(recipe, COUNT)
    silent_video(tmp_path / "data/raw/a.mp4")
    paths = ["data/raw/a.mp4"] * (COUNT - 1) + ["data/raw/gone.mp4"]
    write_clips(
        tmp_path / CLIPS,
        [_clip(name, path, row) for row, (name, path) in enumerate(zip(examples.clip_id, paths, strict=True))],
    )
    return Material(
        recipe=recipe,
        workspace=tmp_path,
        cascade=None,  # type: ignore[arg-type]  # nothing is generated here
        examples=examples,
        train=examples,
        generated=_music(0.1),
        real=_music(0.2),
    )


def _clip(name: str, path: str, row: int) -> Clip:
    return Clip(
        clip_id=name,
        video_id=name,
        path=path,
        sha256="",
        start=0.3 * row,
        seconds=1.0,
        video_seconds=2.6,
        fps=10.0,
        width=64,
        height=64,
        sample_rate=RATE,
        channels=1,
        loudness_db=-20.0,
        split="holdout",
        caption="",
        attributes={},
    )


def _music(step: float) -> Music:
    waves = torch.arange(1.0, COUNT + 1)[:, None].mul(step).expand(COUNT, RATE)
    return Music(waveforms=waves, ids=torch.zeros(COUNT, 1), codes=torch.zeros(COUNT, 1, 1))


def test_each_piece_has_its_real_music_and_a_control_under_the_same_picture(material):
    """A control that were the piece itself, or lay under another picture, would control nothing."""
    samples.write(material, {})
    folder = material.workspace / samples.SAMPLES
    assert [sample["number"] for sample in read_json(folder / "samples.json")] == ["000", "001", "002", "003"]
    levels = {kind: read_wav(folder / f"001-{kind}.wav")[0][0] for kind in samples.KINDS}
    assert levels == pytest.approx({"real": 0.4, "generated": 0.2, "control": 0.4}, abs=1e-4)
    with Reader(material.recipe.media) as reader:
        shown = {kind: reader.frames(folder / f"001-{kind}.mp4", 10, 64) for kind in samples.KINDS}
        true = reader.frames(material.workspace / "data/raw/a.mp4", 10, 64, 0.3, 1.0)
    assert all(np.abs(pictures.astype(int) - true).mean() < 4 for pictures in shown.values())


def test_a_video_that_is_gone_leaves_the_sound(material):
    samples.write(material, {})
    names = {path.name for path in (material.workspace / samples.SAMPLES).glob("003-*")}
    assert names == {"003-real.wav", "003-generated.wav", "003-control.wav"}


def test_a_single_video_has_no_control(material):
    alone = replace(material.examples, video_id=["one"] * COUNT)
    samples.write(replace(material, examples=alone), {})
    assert not list((material.workspace / samples.SAMPLES).glob("*control*"))


def test_the_same_material_gives_the_same_bytes(material):
    """Samples lie in DVC: bytes that change without a reason are a new version of them."""
    samples.write(material, {})
    first = {path.name: path.read_bytes() for path in (material.workspace / samples.SAMPLES).iterdir()}
    samples.write(material, {})
    assert {path.name: path.read_bytes() for path in (material.workspace / samples.SAMPLES).iterdir()} == first


def test_best_and_worst_are_those_of_all_measures_together():
    """By ranks: a measure in decibels would else outvote one in shares."""
    scores = {"share": [0.9, 0.8, 0.5, 0.2, 0.1, 0.0], "db": [80.0, 90.0, 50.0, 20.0, None, 10.0]}
    chosen = samples.choose(scores, 6)
    assert {why: {row for row, reason in chosen if reason == why} for _, why in chosen} == {
        "best": {0, 1},
        "middling": {2, 4},
        "worst": {3, 5},
    }
    assert [why for _, why in chosen[:3]] == ["worst", "middling", "best"]  # however short the page, it has each


@pytest.mark.parametrize("count", [1, 2, 3, 5, 50])
def test_no_piece_is_chosen_twice(count):
    chosen = [row for row, _ in samples.choose({"score": list(range(count))}, count)]
    assert len(set(chosen)) == len(chosen) == min(6, count)
    assert all(0 <= row < count for row in chosen)
    assert len(samples.choose({}, count)) == min(6, count)
