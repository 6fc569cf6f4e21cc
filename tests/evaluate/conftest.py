"""What tests of measures share: a few scenes of the synthetic catalogue, with the shipped model."""

import pytest
import scenes

from v2meow.evaluate.material import Material
from v2meow.evaluate.profile import Yardstick


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """12 held-out scenes whose generated music is their own, and 40 to learn from. Leave its files as they are."""
    return scenes.material(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="session")
def yardstick(material: Material) -> Yardstick:
    """What measures music for these scenes."""
    return Yardstick(material)
