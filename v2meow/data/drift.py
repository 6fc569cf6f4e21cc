"""How far the numbers of one catalogue lie from those of another, and whether that is more than chance.

A profile is what is kept of a column, so that a later version can be compared with it when the values are gone. Knows
numbers, not what they are of: values should be independent, so of clips that overlap give one for each video.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

SHIFTED_PSI = 0.25  # from here on a population counts as another one: Siddiqi, Credit Risk Scorecards, 2006
FEWEST = 20  # values on either side, below which nothing is said
_BINS = 10
_PRIOR = 0.5  # of a value, in each bin: an empty one would make the index infinite
_Z = 3.0902  # of the normal distribution, at 0.999


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A column in short: bins split where its tenths end, so `counts` [E + 1] lie below, between and above `edges` [E].

    An edge belongs to the bin below it. The outer bins are empty here: they catch what is beyond the column's range.
    """

    count: int
    mean: float
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How a column moved: its index of stability, and the least index that chance and custom do not explain."""

    psi: float
    limit: float
    before: float
    after: float

    @property
    def shifted(self) -> bool:
        return self.psi > self.limit

    def sentence(self, name: str) -> str:
        return f"{name} moved from {self.before:.3g} to {self.after:.3g} on average (index {self.psi:.2f})"


def profile(values: np.ndarray) -> Profile:
    """The profile of values [N]; those that are no finite numbers do not count."""
    values = _finite(values)
    if not len(values):
        return Profile(count=0, mean=0.0, edges=(), counts=(0,))
    tenths = np.quantile(values, np.linspace(0, 1, _BINS + 1), method="inverted_cdf")
    edges = np.unique(np.append(tenths, np.nextafter(tenths[0], -np.inf)))
    counts = _binned(values, edges)
    return Profile(
        count=len(values), mean=float(values.mean()), edges=tuple(edges.tolist()), counts=tuple(counts.tolist())
    )


def from_json(content: Mapping[str, Any]) -> Profile:
    """The profile whose `dataclasses.asdict` went through JSON. ValueError when it is none."""
    try:
        found = Profile(
            count=int(content["count"]),
            mean=float(content["mean"]),
            edges=tuple(map(float, content["edges"])),
            counts=tuple(map(int, content["counts"])),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"this is no profile of a column: {error!r}") from error
    if len(found.counts) != len(found.edges) + 1 or sum(found.counts) != found.count:
        raise ValueError("this is no profile of a column: its counts do not fit")
    return found


def drift(before: Profile, values: np.ndarray) -> Drift | None:
    """How values [N] lie beside an earlier profile; None where either has fewer than `FEWEST`.

    The limit is `SHIFTED_PSI`, or where few values make that likely by chance, what one of a thousand comparisons of
    equal populations exceeds: (1/N + 1/M) times the quantile of chi² with one degree of freedom less than bins
    (Yurdakul and Naranjo, Statistical properties of the population stability index, 2020).
    """
    values = _finite(values)
    if min(before.count, len(values)) < FEWEST:
        return None
    counts = _binned(values, np.array(before.edges))
    chance = (1 / before.count + 1 / len(values)) * _chi2_quantile(len(counts) - 1)
    return Drift(
        psi=psi(np.array(before.counts), counts),
        limit=max(SHIFTED_PSI, chance),
        before=before.mean,
        after=float(values.mean()),
    )


def against(report: bytes | None, columns: Mapping[str, np.ndarray]) -> dict[str, Drift]:
    """Drift of columns of values [N] from the `figures.profiles` of an earlier report, as far as it has such."""
    try:
        profiles = json.loads(report or b"{}")["figures"]["profiles"]
        known = {name: from_json(profiles[name]) for name in columns if name in profiles}
    except (ValueError, LookupError, TypeError):
        return {}  # no report, or one of an earlier edition
    found = {name: drift(before, columns[name]) for name, before in known.items()}
    return {name: one for name, one in found.items() if one is not None}


def psi(before: np.ndarray, after: np.ndarray) -> float:
    """Population stability index of counts [B] in the same bins: the sum of (q − p) ln(q / p) of their shares."""
    assert before.shape == after.shape, (before.shape, after.shape)
    p, q = ((counts + _PRIOR) / (counts.sum() + _PRIOR * len(counts)) for counts in (before, after))
    return float(((q - p) * np.log(q / p)).sum())


def psi_of_names(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """The same of named counts, such as videos by genre; a name that is missing on one side counts 0 there."""
    names = sorted({*before, *after})
    return psi(*(np.array([counts.get(name, 0.0) for name in names]) for counts in (before, after)))


def ks(before: np.ndarray, after: np.ndarray) -> float:
    """Two-sample Kolmogorov–Smirnov statistic: the widest gap between the distributions of values [N] and [M]."""
    before, after = np.sort(_finite(before)), np.sort(_finite(after))
    if not len(before) or not len(after):
        return 0.0
    points = np.concatenate([before, after])
    below = (np.searchsorted(values, points, side="right") / len(values) for values in (before, after))
    return float(np.abs(np.subtract(*below)).max())


def _finite(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    return values[np.isfinite(values)]


def _binned(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)


def _chi2_quantile(freedom: int) -> float:
    """Of chi² at 0.999, by Wilson and Hilferty (1931): within 3 % from 2 degrees of freedom on."""
    part = 2 / (9 * freedom)
    return freedom * (1 - part + _Z * math.sqrt(part)) ** 3
