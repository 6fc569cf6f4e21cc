"""Which videos hold the same music or the same pictures: near-copies, that must not be trained on and judged by.

Works on the fingerprints of all videos at once, by sorting: no two videos are compared that share nothing. Knows no
files.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from v2meow.data.fingerprint import PLAIN

_CROWD = 64  # videos that share a key or a part of a hash: then it tells nothing, and pairs would be many
_MET = 3  # keys, of sound or of pictures, that two videos must share before they are compared
_SAME_SOUND = 0.08  # share of the keys of the shorter sound that are met in one and the same distance
_FEWEST_KEYS = 6  # that must be
_DRIFT_HOPS = 2  # by which distances may differ
_QUARTER_BITS = 16  # of a picture's hash, which is looked up by each two of its quarters
_WIDTH = np.uint64(_QUARTER_BITS)
_NEAR_BITS = 6  # of 64 by which hashes of one picture differ
_SAME_PICTURES = 0.6  # share of the shorter video's pictures that the other one has, too
_FEWEST_PICTURES = 3  # different ones that must be shared


@dataclass(frozen=True)
class Fingerprint:
    """Sound keys, uint32 [N, 2] of (key, hop), and hashes of pictures, uint64 [V], of one video."""

    sound: np.ndarray
    pictures: np.ndarray


def near_copies(prints: Sequence[Fingerprint]) -> Iterator[tuple[int, int]]:
    """Pairs i < j of videos of which one holds most of the other's sound, or most of its pictures."""
    for i, j in sorted(_meet_by_sound(prints) | _meet_by_picture(prints)):
        if same_sound(prints[i].sound, prints[j].sound) or same_pictures(prints[i].pictures, prints[j].pictures):
            yield i, j


def same_sound(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether many keys of the two come at one distance in time. A key that is common in a video counts once a hop."""
    fewest = min(len(one), len(other))
    if fewest < _FEWEST_KEYS:
        return False
    order = np.argsort(other[:, 0], kind="stable")
    keys, hops = other[order, 0], other[order, 1].astype(np.int64)
    begin, end = np.searchsorted(keys, one[:, 0], "left"), np.searchsorted(keys, one[:, 0], "right")
    counts = np.minimum(end - begin, _CROWD)
    if not counts.sum():
        return False
    rows = np.repeat(np.arange(len(one)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    distances = hops[begin[rows] + within] - one[rows, 1].astype(np.int64)
    best = _densest(distances)
    met = len(np.unique(one[rows[np.abs(distances - best) <= _DRIFT_HOPS], 0]))
    return met >= max(_FEWEST_KEYS, _SAME_SOUND * len(np.unique(one[:, 0] if len(one) <= len(other) else other[:, 0])))


def same_pictures(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether most of the shorter video's pictures have one in the other that differs by few bits only.

    Pictures that differ as little within a video count once: a single shot that stands still tells nothing.
    """
    (shorter, _), (_, longer) = sorted(((_unlike(one), one), (_unlike(other), other)), key=lambda each: len(each[0]))
    if len(shorter) < _FEWEST_PICTURES:
        return False
    near = np.bitwise_count(shorter[:, None] ^ longer[None]).min(axis=1) <= _NEAR_BITS
    return int(near.sum()) >= max(_FEWEST_PICTURES, _SAME_PICTURES * len(shorter))


def _unlike(hashes: np.ndarray) -> np.ndarray:
    """Hashes of pictures that differ from each other; plain ones left out."""
    kept = np.zeros(0, np.uint64)
    for each in hashes[hashes != PLAIN]:
        if np.bitwise_count(kept ^ each).min(initial=64) > _NEAR_BITS:
            kept = np.append(kept, each)
    return kept


def connected(count: int, pairs: Iterator[tuple[int, int]]) -> list[int]:
    """For each of `count` items the smallest item that it is joined to by `pairs`, through others or at once."""
    first = list(range(count))

    def root(item: int) -> int:
        while first[item] != item:
            first[item] = item = first[first[item]]
        return item

    for i, j in pairs:
        a, b = sorted((root(i), root(j)))
        first[b] = a
    return [root(item) for item in range(count)]


def _densest(distances: np.ndarray) -> int:
    """The distance about which most others lie."""
    values, counts = np.unique(distances, return_counts=True)
    begin = np.searchsorted(values, values - _DRIFT_HOPS, "left")
    end = np.searchsorted(values, values + _DRIFT_HOPS, "right")
    total = np.concatenate([[0], np.cumsum(counts)])
    return int(values[np.argmax(total[end] - total[begin])])


def _meet_by_sound(prints: Sequence[Fingerprint]) -> set[tuple[int, int]]:
    """Pairs that share several keys."""
    keys = [np.unique(each.sound[:, 0]) for each in prints]
    return {pair for pair, shared in _meetings(keys).items() if shared >= _MET}


def _meet_by_picture(prints: Sequence[Fingerprint]) -> set[tuple[int, int]]:
    """Pairs that share halves of hashes of several pictures: two quarters of 16 bits each, in every combination.

    A quarter alone would be shared by chance in numbers that grow with the square of the catalogue.
    """
    met: Counter[tuple[int, int]] = Counter()
    hashes = [np.unique(each.pictures[each.pictures != PLAIN]) for each in prints]
    for one, other in combinations(range(0, 64, _QUARTER_BITS), 2):
        met += _meetings([np.unique(_quarter(each, one) << _WIDTH | _quarter(each, other)) for each in hashes])
    return {pair for pair, shared in met.items() if shared >= _MET}


def _quarter(hashes: np.ndarray, shift: int) -> np.ndarray:
    return (hashes >> np.uint64(shift)) & np.uint64((1 << _QUARTER_BITS) - 1)


def _meetings(values: Sequence[np.ndarray]) -> Counter[tuple[int, int]]:
    """How many values each two lists share; values that a crowd shares are left out."""
    owners = np.repeat(np.arange(len(values)), [len(each) for each in values])
    flat = np.concatenate([*values, np.zeros(0, np.uint32)])
    order = np.argsort(flat, kind="stable")
    flat, owners = flat[order], owners[order]
    edges = np.flatnonzero(np.diff(flat, prepend=flat[:1] + 1, append=flat[-1:] + 1))
    met: Counter[tuple[int, int]] = Counter()
    for begin, end in pairwise(edges.tolist()):
        if 1 < end - begin <= _CROWD:
            sharers = owners[begin:end].tolist()
            met.update((i, j) for at, i in enumerate(sharers) for j in sharers[at + 1 :])
    return met
