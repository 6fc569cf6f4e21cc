"""The small music-text model: words in any order, music of any length, and pairs that find each other."""

import pytest
import tiny
import torch
from torch.nn import functional as F

from v2meow import weights
from v2meow.config import TwoTowerConfig
from v2meow.encoders.audio import describe
from v2meow.encoders.joint import TwoTower, load_joint
from v2meow.encoders.joint.descriptors import WIDTH, describe_music
from v2meow.encoders.joint.two_tower import WINDOW_SECONDS
from v2meow.train.optim import make_optimizer
from v2meow.weights import ModelError

RATE = 16_000


@pytest.fixture
def model() -> TwoTower:
    torch.manual_seed(0)
    config = tiny.recipe().joint
    assert isinstance(config, TwoTowerConfig)
    return TwoTower(config, RATE).eval()


def _noise(seconds: float, batch: int = 1) -> torch.Tensor:
    return 0.1 * torch.randn(batch, round(seconds * RATE), generator=torch.Generator().manual_seed(0))


def _descriptors(count: int) -> torch.Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(0))


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


def test_the_vector_of_longer_music_is_the_mean_over_windows_that_cover_it(model):
    waveform, length = _noise(2 * WINDOW_SECONDS + 1.0, batch=2), round(WINDOW_SECONDS * RATE)
    starts = (0, (waveform.shape[1] - length) // 2, waveform.shape[1] - length)
    pieces = [model.embed_audio(waveform[:, start : start + length]) for start in starts]
    expected = F.normalize(torch.stack(pieces).mean(0), dim=-1)
    torch.testing.assert_close(model.embed_audio(waveform), expected)


def test_music_shorter_than_a_window_is_repeated(model):
    """Filled with silence, a short piece would sound quiet, and its end like an event."""
    short = _noise(1.5)
    whole = torch.cat((short, short, short), dim=1)[:, : round(WINDOW_SECONDS * RATE)]
    torch.testing.assert_close(model.embed_audio(short), model.embed_audio(whole))


def test_silence_has_a_vector(model):
    assert model.embed_audio(torch.zeros(1, RATE)).isfinite().all()


def _clicks(beats_a_minute: float) -> torch.Tensor:
    """Four seconds of a decaying noise on each beat."""
    time = torch.arange(4 * RATE) / RATE
    return _noise(4.0) * torch.exp(-(time * beats_a_minute / 60 % 1) * 60 / beats_a_minute / 0.05)


def test_tempo_shows_where_the_beat_comes_again():
    for tempo in (75.0, 100.0, 150.0):
        rhythm = describe_music(_clicks(tempo), RATE)[0, 256:-24]
        assert int(rhythm.argmax()) + 4 == pytest.approx(50 * 60 / tempo, abs=1)


def test_harmony_shows_its_pitch_classes_in_any_octave():
    time = torch.arange(4 * RATE) / RATE
    for frequency, place in ((220.0, 0), (440.0, 0), (523.25, 3), (659.26, 7)):  # A, A, C, E
        chroma = describe_music(0.3 * torch.sin(2 * torch.pi * frequency * time)[None], RATE)[0, -24:-12]
        assert int(chroma.argmax()) == place and chroma[place] > 0.8


def test_training_brings_pairs_together(model):
    """After it the loss of matching pairs is lower than that of the same pairs shuffled."""
    descriptors, texts = _descriptors(4), ["bell", "flute", "strings", "oboe"]
    optimizer = make_optimizer(model, 3e-3, 0.0)
    before = model.loss(descriptors, texts).item()
    for _ in range(30):
        optimizer.zero_grad()
        model.loss(descriptors, texts).backward()
        optimizer.step()
    with torch.no_grad():
        after, shuffled = model.loss(descriptors, texts).item(), model.loss(descriptors, texts[1:] + texts[:1]).item()
    assert after < 0.5 * before
    assert after < 0.2 * shuffled


def test_equal_captions_are_not_pushed_apart(model):
    """A catalogue says `slow flute` more than once: counted as mismatches, those pairs would fight."""
    descriptors, texts = _descriptors(3), ["bell", "bell", "flute"]
    similarity = model.embed_windows(descriptors) @ model.embed_text(texts).T * model.log_scale.exp()
    goal = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    rows, columns = (-(goal * each.log_softmax(1)).sum(1).mean() for each in (similarity, similarity.T))
    torch.testing.assert_close(model.loss(descriptors, texts), (rows + columns) / 2)


def test_a_saved_model_gives_the_same_vectors(model, tmp_path):
    model.standardise(3 * _descriptors(9) + 1)
    weights.save(tmp_path / "joint", model, describe(model.config, RATE), {})
    loaded = load_joint(tmp_path / "joint")
    assert loaded.width == 8
    assert torch.equal(loaded.embed_text(["a bell"]), model.embed_text(["a bell"]))
    assert torch.equal(loaded.embed_audio(_noise(1.0)), model.embed_audio(_noise(1.0)))


def test_a_folder_of_another_kind_is_named(model, tmp_path):
    weights.save(tmp_path / "joint", model, describe(tiny.recipe().semantic_ids, RATE), {})
    with pytest.raises(ModelError, match=r"joint/config\.json .* kind 'mel'; expected one of two-tower, clap"):
        load_joint(tmp_path / "joint")
