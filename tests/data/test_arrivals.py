"""What came in and was never trained on: found without reading it, measured once, and set against what was."""

from dataclasses import asdict

import numpy as np
import pytest
import tiny
import tones

from v2meow.config import Recipe
from v2meow.data import arrivals, clips
from v2meow.data.drift import profile
from v2meow.data.manifest import RAW, read_clips_table
from v2meow.data.stats import per_video
from v2meow.files import write_json
from v2meow.workspace import snapshot

COUNT = 21  # below 20 nothing is said


@pytest.fixture(scope="module")
def brief() -> Recipe:
    """A recipe whose clips are about as long as the tones."""
    return tiny.recipe()


@pytest.fixture
def trained(fresh, brief):
    """A workspace whose last dataset were loud tones, with the report that its model was made by."""
    tones.make(fresh / RAW, COUNT, level=0.5)
    clips.run(brief, fresh)
    profiles = {name: asdict(profile(values)) for name, values in per_video(read_clips_table(fresh)).items()}
    write_json(fresh / "reports/features.json", {"figures": {"profiles": profiles}})
    snapshot(fresh, "trained")
    return fresh


@pytest.mark.slow
def test_what_came_is_measured_beside_what_the_model_was_made_from(trained, brief, monkeypatch):
    """And then is decoded no more: `ingest` finds what was found out."""
    assert arrivals.waiting(trained) == {}
    tones.make(trained / RAW, COUNT, level=0.5, first=100)
    alike = arrivals.measure(brief, trained, arrivals.waiting(trained))
    assert alike.videos == COUNT and alike.shifted == [] and "lufs" in alike.drift
    assert alike.hours == pytest.approx(COUNT * 2.1 / 3600, rel=0.1)
    for file in (trained / RAW).glob("tone-1*.mp4"):
        file.unlink()
    tones.make(trained / RAW, COUNT, level=0.02, first=200)
    quiet = arrivals.measure(brief, trained, arrivals.waiting(trained))
    assert any("loudness, LUFS moved from" in sentence for sentence in quiet.shifted)
    assert quiet.drift["lufs"].shifted and not quiet.drift["video_seconds"].shifted
    monkeypatch.setattr(clips, "examine", lambda *_: pytest.fail("was decoded before"))
    clips.run(brief, trained)
    assert arrivals.waiting(trained) == {}


def test_figures_of_what_came_are_those_that_a_dataset_is_profiled_by(fresh, brief):
    """Two ways to the same figures: were they to differ, every video would look like drift."""
    tones.make(fresh / RAW, 3, level=0.5, seconds=4.2)
    seen: dict[str, np.ndarray] = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(arrivals, "against", lambda _, columns: seen.update(columns) or {})
        arrivals.measure(brief, fresh, arrivals.waiting(fresh))
    clips.run(brief, fresh)
    columns = per_video(read_clips_table(fresh))
    assert seen.keys() == columns.keys()
    for name, values in columns.items():
        np.testing.assert_allclose(np.sort(seen[name]), np.sort(values), err_msg=name)


def test_what_cannot_be_used_counts_as_nothing(fresh, brief):
    """A source may hold anything; a hidden file is none of ours."""
    (fresh / RAW).mkdir(parents=True, exist_ok=True)
    (fresh / RAW / "noise.mp4").write_bytes(b"no video at all")
    tones.make(fresh / RAW, 1, level=0.0)
    (fresh / RAW / ".hidden.mp4").write_bytes(b"")
    unseen = arrivals.waiting(fresh)
    assert sorted(unseen) == ["data/raw/noise.mp4", "data/raw/tone-000.mp4"]
    found = arrivals.measure(brief, fresh, unseen)
    assert (found.videos, found.hours, found.drift) == (0, 0.0, {})
