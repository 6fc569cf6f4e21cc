"""The judge finds what belongs together where there is anything to find, and nothing where there is not."""

import numpy as np
import pytest
import torch
from torch import Tensor

from v2meow.evaluate.agreement import permutation_test
from v2meow.evaluate.judge import Judge, Side, music_side, word_side


def _pairs(count: int, seed: int) -> tuple[Side, Side]:
    """A planted toy: two hidden numbers bend sequences of music, and of two extractors at rates of their own."""
    random = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, 2, generator=random)

    def sequence(frames: int, width: int, which: int) -> Tensor:
        wave = torch.sin(torch.arange(frames) / frames * 12.6)[None, :, None] * hidden[:, which, None, None]
        return (
            wave * torch.linspace(1, 2, width)
            + hidden[:, :1, None]
            + torch.randn(count, frames, width, generator=random)
        )

    return (sequence(24, 5, 0),), (sequence(16, 4, 0), sequence(4, 3, 1))


@pytest.fixture(scope="module")
def taught() -> tuple[Side, Side]:
    return _pairs(120, seed=0)


@pytest.fixture(scope="module")
def judge(taught) -> Judge:
    return Judge(*taught, seed=0)


def test_it_finds_pairs_that_it_never_saw(judge):
    scores = judge.similarity(*_pairs(32, seed=1))
    found = permutation_test(scores, 999, 0)
    assert found.p_value == 0.001 and found.right > 0.5 > found.wrong + 0.3, found
    assert np.abs(scores).max() <= 1 + 1e-5


def test_taught_shuffled_pairs_it_finds_nothing(taught):
    """Truth that leaks past the pairs would show as agreement here."""
    music, pictures = taught
    order = torch.from_numpy(np.random.default_rng(2).permutation(120))
    deaf = Judge(music, tuple(part[order] for part in pictures), seed=0)
    assert permutation_test(deaf.similarity(*_pairs(32, seed=1)), 999, 0).p_value > 0.01


def test_the_same_pairs_and_seed_give_the_same_judge_and_leave_randomness_as_it_was(taught, judge):
    """An evaluation that is run again must say the same, and must not change what is drawn after it."""
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    with torch.inference_mode():  # as whoever calls may be in
        again = Judge(*taught, seed=0)
    assert torch.equal(torch.rand(1), expected)
    pairs = _pairs(8, seed=3)
    assert np.array_equal(again.similarity(*pairs), judge.similarity(*pairs))


def test_it_finds_captions_by_their_words_and_equal_captions_are_no_contradiction():
    """Half of the pairs have the caption of the other half: a judge that had to tell them apart would learn noise."""
    words = ["slow flute", "fast flute", "slow bell", "fast bell"]

    def clips(count: int, seed: int) -> tuple[Side, list[str]]:
        kind = torch.randint(4, (count,), generator=torch.Generator().manual_seed(seed))
        noise = torch.randn(count, 50, 4, generator=torch.Generator().manual_seed(seed + 1))
        return (noise + torch.stack((kind % 2, kind // 2, kind % 2, kind // 2), 1)[:, None],), [
            words[number] for number in kind.tolist()
        ]

    music, captions = clips(80, 0)
    judge = Judge(music, word_side(captions, captions), seed=0, words=True)
    unseen, said = clips(24, 5)
    scores = judge.similarity(unseen, word_side(said, captions))
    same = np.array([[a == b for b in said] for a in said])
    assert scores[same].mean() > scores[~same].mean() + 0.8


def test_words_that_were_never_taught_say_nothing():
    (counts,) = word_side(["a slow flute", "unheard of"], ["Slow flute, slow!"])
    assert counts[:, 0].tolist() == [[1, 1], [0, 0]]


def test_music_is_heard_at_25_frames_a_second_whatever_the_codecs_rate():
    for rate in (16_000, 24_000, 48_000):
        (mel,) = music_side(torch.zeros(2, 4 * rate), rate)
        assert mel.shape == (2, 100, 40)
