"""A small study made for real from two systems' folders, and designs that need no media."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from study_media import RATE, VIDEOS, pictures, tone
from study_server import Running, running

from v2meow.evaluate.study.create import Wish, create
from v2meow.evaluate.study.sources import read_source
from v2meow.media import write_video, write_wav


@pytest.fixture(scope="session")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of two systems: `falcon` has scored videos, `badger` loud sounds whose files tell who made them."""
    folder = tmp_path_factory.mktemp("music")
    for number, name in enumerate(VIDEOS):
        write_video(
            folder / "falcon" / f"{name}.mp4", pictures(60 + 60 * number), 10, tone(330 + 60 * number, 0.05), RATE
        )
        write_wav(folder / "badger" / f"{name}.wav", tone(440 + 60 * number, 0.6), RATE, "made by badger")
    return folder


@pytest.fixture(scope="session")
def study_folder(music: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study of both on two videos, with a silent and a mismatched pair; answers are open after 0.2 s."""
    out = tmp_path_factory.mktemp("made") / "study"
    wish = Wish(title="Which?", thanks="code 7Q", silent=1, mismatched=1, listen_s=0.2, max_raters=4, invite=3)
    create(out, [read_source(name, music / name) for name in ("falcon", "badger")], {}, wish)
    return out


@pytest.fixture
def served(study_folder: Path, tmp_path: Path) -> Iterator[Running]:
    """The study with ratings of its own."""
    server: AbstractContextManager[Running] = running(study_folder, tmp_path / "ratings.sqlite")
    with server as started:
        yield started
