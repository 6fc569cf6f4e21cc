"""The small music-text model learns from a small catalogue what it then hears in other music."""

import numpy as np
import pytest
import torch

from v2meow.config import TwoTowerConfig
from v2meow.data import synthetic
from v2meow.encoders.audio import resample
from v2meow.encoders.joint import TwoTower
from v2meow.train.joint import retrieval, train_two_tower

RATE = 16_000


def _catalogue(count: int, seed: int) -> tuple[torch.Tensor, list[str]]:
    """Pieces of four seconds [count, T] and their captions."""
    music, captions = [], []
    for index in range(count):
        random = np.random.default_rng((seed, index))
        factors = synthetic.draw_factors(random, index)
        music.append(torch.from_numpy(synthetic.play(factors, random, 4.0)))
        captions.append(synthetic.caption(factors, random))
    return resample(torch.stack(music), synthetic.SAMPLE_RATE, RATE), captions


def test_captions_of_unheard_music_are_found():
    """Far above chance, which finds one of 24; what the model is not told of does not count: the way of saying it."""
    config = TwoTowerConfig(kind="two-tower", width=32, text_buckets=512, steps=150, batch=32, learning_rate=0.003)
    music, captions = _catalogue(96, seed=1)
    torch.manual_seed(0)
    model, losses = TwoTower(config, RATE), []
    with torch.no_grad():
        windows = model.describe(music)
    train_two_tower(model, windows, captions, 0, losses.append)
    unheard, own = _catalogue(24, seed=2)
    distinct = sorted(set(own))
    with torch.inference_mode():
        figures = retrieval(model.embed_audio(unheard), own, model.embed_text(distinct), distinct)
    assert len(losses) == 150 and losses[-1] < 0.6 * losses[0]
    assert figures["recall_at_1"] > 8 * figures["chance_at_1"]
    assert figures["text_recall_at_1"] > 8 * figures["text_chance_at_1"]
    assert min(figures["recall_at_10"], figures["text_recall_at_10"]) > 0.9


def test_recall_counts_what_is_nearest():
    """Two of three clips find their caption first; one of two captions finds music of its own first."""
    text = torch.eye(2)
    audio = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6]])
    figures = retrieval(audio, ["a", "a", "b"], text, ["a", "b"])
    assert figures["recall_at_1"] == pytest.approx(1 / 3) and figures["recall_at_10"] == 1
    assert figures["text_recall_at_1"] == pytest.approx(1 / 2) and figures["text_recall_at_10"] == 1
    assert figures["chance_at_1"] == pytest.approx(1 / 2) and figures["text_chance_at_1"] == pytest.approx(1 / 2)
    assert figures["held_out_pairs"] == 3
