"""Planted-truth measures: does generated music have the tempo, mode, timbre and energy its video asks for?

For catalogues whose attributes tell the truth, as the synthetic one's do. Each measure is compared
with wrong videos, and with its ceiling: what it finds in the real soundtracks after the codec. What is
planted does not change within a clip, so a video that is moved in time asks for the same (`shifted` is None).
"""

import json
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from v2meow.data.synthetic import TIMBRES, Factors, caption, read_factors
from v2meow.evaluate import listen
from v2meow.evaluate.agreement import (
    Agreement,
    correlation_scores,
    correlation_test,
    equal_scores,
    permutation_test,
    row,
    tempo_scores,
)

TEMPO_TOLERANCE = 0.08  # share of the true tempo, octaves allowed


def factors_of(attributes: list[str]) -> list[Factors] | None:
    """The factors of each clip from its attributes (JSON text), or None when any clip has none."""
    factors = [read_factors(json.loads(text)) for text in attributes]
    return None if None in factors else factors  # type: ignore[return-value]


class Listener:
    """Hears the factors in audio. Its timbre classifier is fitted on labelled music."""

    def __init__(self, waveforms: Tensor, factors: list[Factors], sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self._timbre = listen.fit_timbre(waveforms, [factor.timbre for factor in factors], sample_rate)

    def timbres(self, waveforms: Tensor) -> list[str]:
        """The timbre heard in each of [N, T]."""
        return list(self._timbre.predict(listen.timbre_features(waveforms, self.sample_rate)))

    def scores(self, waveforms: Tensor, factors: list[Factors]) -> dict[str, np.ndarray]:
        """For each factor, how well music i [N, T] goes with video j: [N, N]."""
        timbres = self.timbres(waveforms)
        energies = np.array([factor.energy for factor in factors])
        tempi = np.array([factor.tempo for factor in factors])
        return {
            "timbre": equal_scores(timbres, [factor.timbre for factor in factors]),
            "energy": correlation_scores(listen.level_dbfs(waveforms), energies),
            "tempo": tempo_scores(listen.tempo(waveforms, self.sample_rate), tempi, TEMPO_TOLERANCE),
            "mode": equal_scores(listen.mode(waveforms, self.sample_rate), [factor.mode for factor in factors]),
        }


def measure(
    listener: Listener, generated: Tensor, real: Tensor, factors: list[Factors], *, permutations: int, seed: int
) -> dict[str, dict[str, Any]]:
    """For each factor the agreement of generated music [N, T] with its videos, and the real music's as `ceiling`."""
    found, ceilings = (_agreements(listener, music, factors, permutations, seed) for music in (generated, real))
    return {name: row(agreement, ceilings[name]) for name, agreement in found.items()}


def per_clip(listener: Listener, waveforms: Tensor, factors: list[Factors]) -> dict[str, list[float]]:
    """For each factor how well music i [N, T] goes with its own video; of energy the product of standard scores."""
    return {name: np.diag(scores).tolist() for name, scores in listener.scores(waveforms, factors).items()}


def _agreements(
    listener: Listener, waveforms: Tensor, factors: list[Factors], permutations: int, seed: int
) -> dict[str, Agreement]:
    levels, energies = listen.level_dbfs(waveforms), np.array([factor.energy for factor in factors])
    scores = listener.scores(waveforms, factors)
    return {name: permutation_test(each, permutations, seed) for name, each in scores.items()} | {
        "energy": correlation_test(levels, energies, permutations, seed)
    }


def contradict(factors: list[Factors], seed: int) -> tuple[list[str], list[Factors]]:
    """For each video a caption that fits it but for the timbre, and the factors that the caption tells."""
    random = np.random.default_rng(seed)
    told = [
        replace(factor, timbre=TIMBRES[(TIMBRES.index(factor.timbre) + 1 + row % 3) % len(TIMBRES)])
        for row, factor in enumerate(factors)
    ]
    return [caption(factor, random) for factor in told], told


def followed(listener: Listener, prompted: Tensor, seen: list[Factors], told: list[Factors]) -> dict[str, float]:
    """Of music [N, T] made for contradicting prompts, the shares with the prompt's timbre and with the picture's."""
    heard = listener.timbres(prompted)
    return {
        "prompt": sum(found == factor.timbre for found, factor in zip(heard, told, strict=True)) / len(told),
        "picture": sum(found == factor.timbre for found, factor in zip(heard, seen, strict=True)) / len(seen),
    }
