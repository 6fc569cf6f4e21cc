"""Semantic ids: one each 40 ms, the same for the same sound."""

from dataclasses import replace

import pytest
import tiny
import torch

from v2meow import weights
from v2meow.config import MelIdsConfig, RecipeError
from v2meow.encoders.audio import describe
from v2meow.encoders.mel import log_mel
from v2meow.encoders.semantic import SemanticIds, load_semantic, new_semantic
from v2meow.weights import ModelError

RATE = 16_000


@pytest.fixture(scope="module")
def noises() -> torch.Tensor:
    """Two seconds each of noise at eight levels."""
    levels = torch.logspace(-3, 0, 8)[:, None]
    return levels * torch.randn(8, 2 * RATE, generator=torch.Generator().manual_seed(0))


def _fitted(noises, seed=0) -> SemanticIds:
    ids = new_semantic(tiny.recipe().semantic_ids, RATE)
    ids.fit([ids.features(part).flatten(0, 1) for part in noises.split(3)], seed)
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
    config = tiny.recipe().semantic_ids
    assert isinstance(config, MelIdsConfig)
    ids = new_semantic(replace(config, clusters=100), RATE)
    for batches in ([torch.randn(60, 64), torch.randn(39, 64)], []):
        with pytest.raises(RecipeError, match=rf"semantic_ids\.clusters: 100 .* has {sum(map(len, batches))}:"):
            ids.fit(batches, 0)


def test_spectrograms_can_be_trained_on_after_they_were_heard(noises):
    """Windows and filters are kept from whoever asked first; made in inference mode, they would end the training."""
    shape = {"sample_rate": RATE, "window": 480, "hop": 120, "mels": 24}  # asked for nowhere else
    with torch.inference_mode():
        log_mel(noises[:1], **shape)
    sound = noises[:1].clone().requires_grad_()
    log_mel(sound, **shape).sum().backward()
    assert sound.grad is not None and sound.grad.isfinite().all()


def test_saved_ids_come_back(ids, noises, tmp_path):
    weights.save(tmp_path / "semantic", ids, describe(ids.config, RATE), {})
    assert torch.equal(load_semantic(tmp_path / "semantic").encode(noises), ids.encode(noises))


def test_a_folder_that_holds_something_else_is_named(ids, tmp_path):
    """A music-text model in the place of the ids, or a truncated file, must not be found out by a wrong sound."""
    folder = tmp_path / "semantic"
    for config, reason in (
        (describe(tiny.recipe().joint, RATE), "kind 'two-tower'; expected one of mel, w2v-bert"),
        ({"kind": "mel"}, "does not describe an encoder"),
        ({"config": {"kind": "mel"}, "sample_rate": RATE}, "does not describe an encoder of kind mel"),
    ):
        weights.save(folder, ids, config, {})
        with pytest.raises(ModelError, match=rf"semantic/config\.json .*{reason}"):
            load_semantic(folder)
    weights.save(folder, ids, describe(ids.config, RATE), {})
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=r"semantic/model\.safetensors"):
        load_semantic(folder)
