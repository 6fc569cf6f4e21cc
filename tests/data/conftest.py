"""A recipe and hand-made clips, shared by the tests of v2meow/data."""

import pytest

from v2meow.config import load_recipe, recipe_path
from v2meow.data.manifest import Clip


@pytest.fixture(scope="session")
def nano():
    return load_recipe(recipe_path("nano"))


@pytest.fixture(scope="session")
def make_clip():
    """A sound clip of the nano recipe; `video` numbers its video, keywords plant what is under test."""

    def make(video: int = 0, index: int = 0, **planted) -> Clip:
        video_id = f"{video:016x}"
        values = {
            "clip_id": f"{video_id}-{index:04d}",
            "video_id": video_id,
            "path": f"data/raw/{video:03d}.mp4",
            "sha256": video_id * 4,
            "start": 2.0 * index,
            "seconds": 4.0,
            "video_seconds": 60.0,
            "fps": 25.0,
            "width": 64,
            "height": 64,
            "sample_rate": 44100,
            "channels": 2,
            "loudness_db": -20.0,
            "split": "holdout" if video % 4 == 0 else "train",
            "caption": "",
            "attributes": {},
        }
        return Clip(**(values | planted))

    return make
