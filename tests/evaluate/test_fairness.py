"""The audit finds what a factor does to the music, and finds nothing in what another seed would do as well."""

import csv
import shutil
from dataclasses import replace

import numpy as np
import pytest
import scenes
import tiny_bundle
import torch

from v2meow.data.manifest import CLIPS
from v2meow.encoders.joint import load_joint
from v2meow.evaluate import fairness
from v2meow.evaluate.fairness import Pieces, compare, findings
from v2meow.files import write_json

COUNT = 12


@pytest.fixture(scope="module")
def tower():
    return load_joint(scenes.SHIPPED / "encoders" / "joint")


@pytest.fixture(scope="module")
def recipe():
    return scenes.Cascade(scenes.SHIPPED).recipe


def _music(seed: int, level: float = 0.1) -> torch.Tensor:
    """COUNT pieces of coloured noise: enough to have a level, a spectrum and a tempo."""
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(COUNT, 64_000, generator=random)
    return level * (noise + noise.roll(1, 1) * torch.rand(COUNT, 1, generator=random))


def test_what_another_seed_does_as_well_is_no_finding(tower, recipe):
    same = compare(Pieces(plain=_music(0), changed=_music(1), reseeded=_music(2)), tower, recipe)
    assert findings({"mirror": same}) == []
    assert same["distance"]["level_db"]["low"] < 0 < same["distance"]["level_db"]["high"]


def test_music_that_does_not_change_at_all_has_no_distance(tower, recipe):
    still = compare(Pieces(plain=_music(0), changed=_music(0), reseeded=_music(1)), tower, recipe)
    assert all(
        row["changed"] == pytest.approx(0, abs=1e-5) and row["p_value"] > 0.5 for row in still["distance"].values()
    )
    assert still["shift"]["level_db"] == {"mean": 0, "low": 0, "high": 0, "p_value": 1.0}


def test_a_factor_that_makes_all_music_louder_is_found_with_its_sign(tower, recipe):
    """6 dB are found as what they are; the tempo of the very same notes is not touched."""
    louder = compare(Pieces(plain=_music(0), changed=2 * _music(0), reseeded=_music(1)), tower, recipe)
    assert louder["shift"]["level_db"]["mean"] == pytest.approx(6.02, abs=0.01)
    assert louder["shift"]["tempo_octaves"]["mean"] == 0
    assert ("shift", "level_db") in {(row["of"], row["measure"]) for row in findings({"lighting": louder})}


def test_transforms_change_their_factor_and_nothing_else():
    frames = np.random.default_rng(0).integers(0, 200, size=(3, 8, 6, 3), dtype=np.uint8)
    assert np.array_equal(fairness.mirrored(fairness.mirrored(frames)), frames)
    assert np.array_equal(fairness.mirrored(frames)[:, :, 0], frames[:, :, -1])
    assert np.array_equal(fairness.dim(frames), np.round(frames * np.float32(0.6)))
    warm = fairness.warm(frames)
    assert np.array_equal(warm[..., 1], frames[..., 1])
    assert (warm[..., 0] >= frames[..., 0]).all() and (warm[..., 2] <= frames[..., 2]).all()
    assert fairness.warm(np.full((1, 1, 1, 3), 255, np.uint8)).tolist() == [[[[255, 255, 204]]]]  # no overflow


@pytest.mark.slow
def test_of_the_shipped_model_lighting_is_found_and_left_and_right_are_not(material, tmp_path):
    """The catalogue means brightness to make music loud, so an audit that misses it is blind."""
    found = fairness.measure(material)
    darker, mirror = found["factors"]["lighting"]["shift"]["level_db"], found["factors"]["mirror"]
    assert darker["high"] < 0 and darker["p_value"] < 0.02, darker
    assert all(row["low"] <= 0 for row in mirror["distance"].values()), mirror  # no further than another seed
    assert "mirror" not in {row["factor"] for row in found["findings"]}
    write_json(tmp_path / "metrics.json", found)


@pytest.mark.slow
def test_videos_that_are_gone_leave_nothing_to_audit(material, tmp_path):
    (tmp_path / CLIPS).parent.mkdir(parents=True)
    shutil.copy(material.workspace / CLIPS, tmp_path / CLIPS)
    found = fairness.measure(replace(material, workspace=tmp_path))
    assert found["factors"] == {} and found["skipped"] == "0 held-out videos to audit: at least 2 are needed"


def test_pairs_of_videos_are_audited_from_a_table(tmp_path):
    """A video beside itself: whatever the model, nothing may differ but by the seed."""
    bundle = tiny_bundle.assembled(tmp_path)
    for name in ("a", "b"):
        tiny_bundle.silent_video(tmp_path / f"{name}.mp4")
    rows = [fairness.COLUMNS, ["a.mp4", "a.mp4", "nothing"], ["b.mp4", "b.mp4", "nothing"]]
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    found = fairness.audit(bundle, tmp_path / "pairs.csv")
    assert found["pairs"] == 2 and found["factors"]["nothing"]["count"] == 2
    assert found["factors"]["nothing"]["distance"]["embedding"]["changed"] == pytest.approx(0, abs=1e-5)
    assert found["factors"]["nothing"]["distance"]["timbre"]["reseeded"] > 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a,b\n", "first line must be video_a,video_b,factor"),
        ("video_a,video_b,factor\n", "there are no pairs"),
        ("video_a,video_b,factor\na.mp4,b.mp4,skin\n", "'skin' has one pair"),
        ("video_a,video_b,factor\na.mp4,,skin\n", "line 2 must have a value"),
        ("video_a,video_b,factor\na.mp4,b.mp4\n", "line 2 must have a value"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_one_line(tmp_path, text, reason):
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(fairness.PairsError, match=reason) as error:
        fairness.read_pairs(tmp_path / "pairs.csv")
    assert "\n" not in str(error.value)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(fairness.PairsError, match=r"none\.csv"):
        fairness.read_pairs(tmp_path / "none.csv")
