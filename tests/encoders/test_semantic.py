"""Semantic ids: one each 40 ms, the same for the same sound."""

from dataclasses import asdict, replace

import pytest
import tiny
import torch

from v2meow import weights
from v2meow.config import RecipeError
from v2meow.encoders.semantic import SemanticIds

RATE = 16_000


@pytest.fixture(scope="module")
def noises() -> torch.Tensor:
    """Two seconds each of noise at eight levels."""
    levels = torch.logspace(-3, 0, 8)[:, None]
    return levels * torch.randn(8, 2 * RATE, generator=torch.Generator().manual_seed(0))


def _fitted(noises, seed=0) -> SemanticIds:
    ids = SemanticIds(tiny.recipe().semantic_ids, RATE)
    ids.fit(ids.features(noises).flatten(0, 1), seed)
    return ids


@pytest.fixture(scope="module")
def ids(noises) -> SemanticIds:
    return _fitted(noises)


def test_there_are_25_ids_a_second(ids, noises):
    found = ids.encode(noises)
    assert (found.shape, found.dtype) == ((8, 50), torch.int64)
    assert found.min() >= 0 and found.max() < 16
    assert ids.encode(noises[:1, : ids.hop]).shape == (1, 1)


def test_the_same_sound_has_the_same_ids_alone_or_in_a_batch(ids, noises):
    assert torch.equal(ids.encode(noises[3:4]), ids.encode(noises)[3:4])


def test_fitting_again_with_the_same_seed_gives_the_same_ids(ids, noises):
    """Ids of examples and of the stage that was trained on them must mean the same."""
    assert torch.equal(_fitted(noises).centroids, ids.centroids)
    assert not torch.equal(_fitted(noises, seed=1).centroids, ids.centroids)


def test_an_id_is_the_nearest_centroid(ids, noises):
    features = ids.features(noises[:1])[0]
    nearest = [int(((frame - ids.centroids) ** 2).sum(1).argmin()) for frame in features]
    assert ids.encode(noises[:1])[0].tolist() == nearest


def test_different_sounds_have_different_ids(ids, noises):
    """Ids that ignore what is heard would leave the coarse stage nothing to follow."""
    found = ids.encode(noises)
    assert not set(found[0].tolist()) & set(found[-1].tolist())


def test_a_catalogue_too_small_for_its_clusters_is_told_by_the_key():
    ids = SemanticIds(replace(tiny.recipe().semantic_ids, clusters=100), RATE)
    with pytest.raises(RecipeError, match=r"semantic_ids\.clusters: 100 clusters .* the catalogue has 99"):
        ids.fit(torch.randn(99, 64), 0)


def test_saved_ids_come_back(ids, noises, tmp_path):
    weights.save(tmp_path / "semantic", ids, {"config": asdict(ids.config), "sample_rate": RATE}, {})
    assert torch.equal(SemanticIds.load(tmp_path / "semantic").encode(noises), ids.encode(noises))
