"""The music-text model: words in any order, audio of any length, and pairs that find each other."""

from dataclasses import asdict

import pytest
import tiny
import torch
from torch.nn import functional as F

from v2meow import weights
from v2meow.encoders.joint import WINDOW_SECONDS, TwoTower
from v2meow.train.optim import make_optimizer

RATE = 16_000


@pytest.fixture
def model() -> TwoTower:
    torch.manual_seed(0)
    return TwoTower(tiny.recipe().joint, RATE).eval()


def _noise(seconds: float, batch: int = 1) -> torch.Tensor:
    return 0.1 * torch.randn(batch, round(seconds * RATE), generator=torch.Generator().manual_seed(0))


def test_a_text_is_its_words_whatever_their_case_order_and_punctuation(model):
    vectors = model.embed_text(["slow, loud Flute!", "flute loud slow", "slow loud bell"])
    torch.testing.assert_close(vectors[0], vectors[1])
    assert not torch.allclose(vectors[0], vectors[2], atol=1e-3)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("text", ["", "…!?", "música лёгкая 音楽", "x" * 10_000])
def test_any_text_has_a_vector(model, text):
    """Prompts come from strangers."""
    assert model.embed_text(["bell", text, "flute"]).isfinite().all()


def test_a_text_in_a_batch_is_the_text_alone(model):
    """Offsets of the bag that are off by one would mix the words of neighbours."""
    texts = ["slow flute", "", "a fast and loud bell", "strings"]
    alone = torch.cat([model.embed_text([text]) for text in texts])
    torch.testing.assert_close(model.embed_text(texts), alone)


def test_the_vector_of_longer_audio_is_the_mean_over_its_windows(model):
    waveform = _noise(3 * WINDOW_SECONDS + 0.7, batch=2)
    length = round(WINDOW_SECONDS * RATE)
    pieces = [model.embed_audio(waveform[:, i * length : (i + 1) * length]) for i in range(3)]
    expected = F.normalize(torch.stack(pieces).mean(0), dim=-1)
    torch.testing.assert_close(model.embed_audio(waveform), expected)
    assert model.embed_audio(waveform[:, : length // 2]).shape == (2, 8)  # shorter than a window


def test_silence_has_a_vector(model):
    assert model.embed_audio(torch.zeros(1, RATE)).isfinite().all()


def test_training_brings_pairs_together(model):
    """After it the loss of matching pairs is lower than that of the same pairs shuffled."""
    features, texts = (
        torch.randn(4, 256, generator=torch.Generator().manual_seed(0)),
        ["bell", "flute", "strings", "oboe"],
    )
    optimizer = make_optimizer(model, 3e-3, 0.0)
    before = model.loss(features, texts).item()
    for _ in range(30):
        optimizer.zero_grad()
        model.loss(features, texts).backward()
        optimizer.step()
    with torch.no_grad():
        after, shuffled = model.loss(features, texts).item(), model.loss(features, texts[1:] + texts[:1]).item()
    assert after < 0.5 * before
    assert after < 0.2 * shuffled


def test_equal_captions_are_not_pushed_apart(model):
    """A catalogue says `slow flute` more than once: counted as mismatches, those pairs would fight."""
    features = torch.randn(3, 256, generator=torch.Generator().manual_seed(0))
    texts = ["bell", "bell", "flute"]
    similarity = model.embed_features(features) @ model.embed_text(texts).T * model.log_scale.exp()
    goal = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    rows, columns = (-(goal * each.log_softmax(1)).sum(1).mean() for each in (similarity, similarity.T))
    torch.testing.assert_close(model.loss(features, texts), (rows + columns) / 2)


def test_a_saved_model_gives_the_same_vectors(model, tmp_path):
    weights.save(tmp_path / "joint", model, {"config": asdict(model.config), "sample_rate": RATE}, {})
    loaded = TwoTower.load(tmp_path / "joint")
    assert torch.equal(loaded.embed_text(["a bell"]), model.embed_text(["a bell"]))
    assert torch.equal(loaded.embed_audio(_noise(1.0)), model.embed_audio(_noise(1.0)))
