"""A judge of whether music goes with a picture, or with words: two towers, learnt for the evaluation alone.

Trained contrastively (CLIP, Radford et al., arXiv 2103.00020; symmetric InfoNCE) on pairs of training clips, and told
nothing of the model that is judged: the tower that conditions it would find in its music what it had asked for.
Whether the judge can be trusted shows on real held-out pairs; see `correspondence`.

Legend: N pairs, F frames, D numbers a frame, B batch, W width.
"""

import re

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from v2meow.encoders.mel import log_mel
from v2meow.progress import progress

WIDTH = 32
STEPS, BATCH = 80, 64
_HIDDEN, _DROPOUT = 64, 0.3
_RATE, _DECAY = 5e-3, 0.05
_MELS, _MEL_RATE = 40, 25
_LONG = 50  # frames, from which on every second will do

Side = tuple[Tensor, ...]  # sequences [N, F, D] of the same N clips, each at a rate of its own


class Sequences(nn.Module):
    """Sequences [B, F, D] → a unit vector [B, W]: filters over time, then the mean, spread and peak of each."""

    def __init__(self, known: Side) -> None:
        super().__init__()
        self.inputs = nn.ModuleList(_Standard(part) for part in known)
        self.filters = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(part.shape[2], _HIDDEN, 5, padding=2, stride=2 if part.shape[1] > _LONG else 1),
                nn.GELU(),
                nn.Conv1d(_HIDDEN, _HIDDEN, 5, padding=2),
                nn.GELU(),
            )
            for part in known
        )
        self.out = nn.Sequential(nn.Dropout(_DROPOUT), nn.Linear(3 * _HIDDEN * len(known), WIDTH))

    def forward(self, side: Side) -> Tensor:
        found = []
        for part, standard, filters in zip(side, self.inputs, self.filters, strict=True):
            each = filters(standard(part).transpose(1, 2))
            found += [each.mean(2), each.std(2, correction=0), each.amax(2)]
        return F.normalize(self.out(torch.cat(found, dim=1)), dim=-1)


class _Standard(nn.Module):
    """Takes off the mean and spread of what is known [N, F, D]."""

    mean: Tensor
    spread: Tensor

    def __init__(self, known: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", known.mean((0, 1)))
        self.register_buffer("spread", known.std((0, 1)).clamp(min=1e-4))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.spread


class Words(nn.Module):
    """Captions as counts of known words [B, words], one sequence of one frame → a unit vector [B, W]."""

    def __init__(self, known: Side) -> None:
        super().__init__()
        words = known[0].shape[2]
        self.out = nn.Sequential(nn.Linear(words, _HIDDEN), nn.GELU(), nn.Dropout(_DROPOUT), nn.Linear(_HIDDEN, WIDTH))

    def forward(self, side: Side) -> Tensor:
        return F.normalize(self.out(side[0][:, 0]), dim=-1)


class Judge:
    """Two towers, fitted to the pairs of `music` and `other` that it is made with: the same pairs, the same judge."""

    def __init__(self, music: Side, other: Side, seed: int, *, words: bool = False) -> None:
        with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._music = Sequences(music)
            self._other = Words(other) if words else Sequences(other)
            self._fit(music, other)

    @torch.inference_mode()
    def similarity(self, music: Side, other: Side) -> np.ndarray:
        """Cosine of music i with picture (or caption) j: [N, N]."""
        return (self._music(music) @ self._other(other).T).numpy()

    def _fit(self, music: Side, other: Side) -> None:
        scale = nn.Parameter(torch.tensor(2.0))
        parameters = [*self._music.parameters(), *self._other.parameters(), scale]
        optimizer = torch.optim.AdamW(parameters, lr=_RATE, weight_decay=_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=STEPS)
        belongs = _belongs(other)
        with progress("train the judge", STEPS) as bar:
            for _ in range(STEPS):
                rows = torch.randperm(len(belongs))[:BATCH]
                vectors = self._music(_rows(music, rows)), self._other(_rows(other, rows))
                loss = _contrast(*vectors, scale, belongs[rows][:, rows])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.advance()
        self._music.eval()
        self._other.eval()


def _contrast(music: Tensor, other: Tensor, scale: Tensor, belongs: Tensor) -> Tensor:
    logits = music @ other.T * scale.clamp(max=4.0).exp()
    goal = belongs.float() / belongs.sum(1, keepdim=True)
    return (F.cross_entropy(logits, goal) + F.cross_entropy(logits.T, goal)) / 2


def _belongs(other: Side) -> Tensor:
    """Which pairs match [N, N]: their own, and those whose other half is equal, as captions often are."""
    flat = torch.cat([part.flatten(1) for part in other], dim=1)
    _, group = torch.unique(flat, dim=0, return_inverse=True)
    return group[:, None] == group[None]


def _rows(side: Side, rows: Tensor) -> Side:
    return tuple(part[rows] for part in side)


def music_side(waveforms: Tensor, sample_rate: int) -> Side:
    """What the judge hears of music [N, T]: its log-mel spectrogram at 25 Hz."""
    hop = sample_rate // _MEL_RATE
    return (log_mel(waveforms, sample_rate=sample_rate, window=2 * hop, hop=hop, mels=_MELS),)


def word_side(captions: list[str], known: list[str]) -> Side:
    """Captions as counts [N, 1, words] of those words that occur in the captions `known`."""
    words = sorted({word for caption in known for word in _words(caption)})
    place = {word: number for number, word in enumerate(words)}
    counts = torch.zeros(len(captions), 1, max(1, len(words)))
    for row, caption in enumerate(captions):
        for word in _words(caption):
            if word in place:
                counts[row, 0, place[word]] += 1
    return (counts,)


def _words(caption: str) -> list[str]:
    return re.findall(r"\w+", caption.lower())
