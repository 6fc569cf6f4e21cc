"""Stretches that sequences of ids have in common: the longest with at most k differing ids, in any number of clips.

A few sequences, the queries, are indexed; clips stream past them, so that memory does not grow with the clips and
time grows with their number of ids. This is the longest common substring with k mismatches (Flouri et al. 2015,
"Longest common substrings with k mismatches"), by seed and extension (Altschul et al. 1990) from runs of SEED equal
ids, which every stretch that is longer than `longest_missed` must hold. Knows ids, not what they mean. What is compiled
stands in this file alone, so that what Numba keeps on disk is made anew when it changes.

Legend: N queries of T ids, M clips of S ids, R clips kept for each query.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit, uint64

from v2meow.generate.native.compiling import compiled
from v2meow.generate.native.maths import FAST

SEED = 8  # ids in a row that must be equal, not all of them the same id, for anything to be looked at
_BASE = 0x9E3779B97F4A7C15 | 1  # of the polynomial hash: any large odd number will do
_MIX = 0xD6E8FEB86659FD93


@dataclass(frozen=True, kw_only=True)
class Stretches:
    """For each query the R clips with the longest stretches, longest first; of equal ones the clip that came first.

    length [N, R] in ids, 0 where nothing was found; clip [N, R], numbered as they came, -1 where none;
    at [N, R] and clip_at [N, R], where the stretch begins in the query and in the clip.
    """

    length: np.ndarray
    clip: np.ndarray
    at: np.ndarray
    clip_at: np.ndarray


def longest_missed(mismatches: int) -> int:
    """Ids of the longest stretch with so many differing ids that may have no run of SEED equal ones in it."""
    return mismatches + (mismatches + 1) * (SEED - 1)


class Search:
    """Finds the longest stretches between queries and clips, for several numbers of differing ids at once.

    A run of one and the same id, as silence or a drone makes it, is no stretch: it is everybody's.
    """

    def __init__(self, queries: np.ndarray, mismatches: tuple[int, ...], *, kept: int = 3, threads: int = 1) -> None:
        """Index queries, integers [N, T]; `kept` is R."""
        assert queries.ndim == 2, queries.shape
        self.clips = 0
        self._queries = np.ascontiguousarray(queries, np.int32)
        self._mismatches = np.array(mismatches, np.int64)
        self._index = _index(self._queries)
        self._tables = np.zeros((threads, len(mismatches), len(queries), kept, 4), np.int64)
        self._tables[..., 1] = -1

    def add(self, clips: np.ndarray) -> None:
        """Compare clips, integers [M, S], with every query."""
        assert clips.ndim == 2, clips.shape
        clips = np.ascontiguousarray(clips, np.int32)
        reach = int(self._mismatches.max()) + 1
        bounds = np.linspace(0, len(clips), len(self._tables) + 1).astype(int).tolist()
        with ThreadPoolExecutor(len(self._tables)) as pool:
            jobs = [
                pool.submit(
                    _scan,
                    self._queries,
                    *self._index,
                    clips[start:end],
                    self.clips + start,
                    self._mismatches,
                    reach,
                    table,
                )
                for (start, end), table in zip(pairwise(bounds), self._tables, strict=True)
            ]
            for job in jobs:
                job.result()
        self.clips += len(clips)

    def found(self) -> tuple[Stretches, ...]:
        """The stretches so far, for each number of differing ids."""
        return tuple(self._merged(place) for place in range(len(self._mismatches)))

    def _merged(self, place: int) -> Stretches:
        tables = np.concatenate(list(self._tables[:, place]), axis=1)  # [N, threads × R, 4]
        order = np.lexsort((tables[..., 1], -tables[..., 0]))[:, : self._tables.shape[3]]
        columns = np.moveaxis(np.take_along_axis(tables, order[..., None], 1), 2, 0)
        return Stretches(length=columns[0], clip=columns[1], at=columns[2], clip_at=columns[3])


def _index(queries: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    """The seeds of the queries by bucket of their hash: where buckets start, the seeds' hashes, queries and places."""
    hashes, numbers, places = _seeds(queries)
    bits = max(8, int(len(hashes) * 4).bit_length())
    buckets = (hashes * np.uint64(_MIX)) >> np.uint64(64 - bits)
    order = np.argsort(buckets, kind="stable")
    starts = np.searchsorted(buckets[order], np.arange((1 << bits) + 1, dtype=np.uint64)).astype(np.int32)
    return starts, hashes[order], numbers[order], places[order], 64 - bits


@compiled
def _seeds(queries: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(hash, query, place) of every SEED ids in a row of [N, T] that are not all the same."""
    count, length = queries.shape
    room = count * max(0, length - SEED + 1)
    hashes, numbers, places = np.empty(room, np.uint64), np.empty(room, np.int32), np.empty(room, np.int32)
    found = 0
    for number in range(count):
        row = queries[number]
        key, same = uint64(0), 0
        for end in range(length):
            key = _rolled(key, row, end)
            same = same + 1 if end > 0 and row[end] == row[end - 1] else 1
            if end + 1 >= SEED and same < SEED:
                hashes[found], numbers[found], places[found] = key, number, end + 1 - SEED
                found += 1
    return hashes[:found], numbers[:found], places[:found]


def _power(base: int, exponent: int) -> int:
    return pow(base, exponent, 1 << 64)


_OLDEST = _power(_BASE, SEED)


@njit(**FAST)
def _rolled(key: Any, row: np.ndarray, end: int) -> Any:
    """The hash of the SEED ids up to `end` from that of those before: a polynomial in _BASE, modulo 2^64."""
    key = key * uint64(_BASE) + uint64(row[end] + 1)
    if end >= SEED:
        key -= uint64(row[end - SEED] + 1) * uint64(_OLDEST)
    return key


@compiled
def _scan(
    queries: np.ndarray,
    starts: np.ndarray,
    hashes: np.ndarray,
    numbers: np.ndarray,
    places: np.ndarray,
    shift: int,
    clips: np.ndarray,
    first: int,
    mismatches: np.ndarray,
    reach: int,
    table: np.ndarray,
) -> None:
    """Compare clips [M, S], of which the first has the number `first`; what is found goes into `table`.

    `reach` is one more than the most mismatches.
    """
    left, right = np.empty(reach, np.int64), np.empty(reach, np.int64)
    for m in range(len(clips)):
        clip = clips[m]
        key, same, constant = uint64(0), 0, False
        for end in range(len(clip)):
            key = _rolled(key, clip, end)
            same = same + 1 if end > 0 and clip[end] == clip[end - 1] else 1
            was_constant, constant = constant, same >= SEED
            if end + 1 < SEED or constant:
                continue
            bucket, j = (key * uint64(_MIX)) >> uint64(shift), end + 1 - SEED
            for entry in range(starts[bucket], starts[bucket + uint64(1)]):
                if hashes[entry] != key:
                    continue
                number, i = numbers[entry], places[entry]
                query = queries[number]
                if i > 0 and j > 0 and query[i - 1] == clip[j - 1] and not was_constant:
                    continue  # the seed before this one has shown this run already
                if not _promises(table, number, min(i, j) + min(len(query) - i, len(clip) - j)):
                    continue
                _reach(query, i, clip, j, left, right)
                if right[0] >= SEED:  # else two seeds of one hash
                    _offer_all(table, number, first + m, i, j, left, right, mismatches)


@njit(**FAST)
def _promises(table: np.ndarray, number: int, overlap: int) -> bool:
    """Whether sequences that overlap by so many ids can still enter a table."""
    for place in range(len(table)):  # noqa: SIM110
        if overlap > table[place, number, -1, 0]:
            return True
    return False


@njit(**FAST)
def _reach(query: np.ndarray, i: int, clip: np.ndarray, j: int, left: np.ndarray, right: np.ndarray) -> None:
    """Fill left [k + 1] and right [k + 1]: ids before and from a seed on that are passed with 0 … k differing ids."""
    passed, wrong, room = 0, 0, min(len(query) - i, len(clip) - j)
    while wrong < len(right):
        while passed < room and query[i + passed] == clip[j + passed]:
            passed += 1
        right[wrong] = passed
        passed, wrong = min(passed + 1, room), wrong + 1
    passed, wrong, room = 0, 0, min(i, j)
    while wrong < len(left):
        while passed < room and query[i - 1 - passed] == clip[j - 1 - passed]:
            passed += 1
        left[wrong] = passed
        passed, wrong = min(passed + 1, room), wrong + 1


@njit(**FAST)
def _offer_all(
    table: np.ndarray,
    number: int,
    clip: int,
    i: int,
    j: int,
    left: np.ndarray,
    right: np.ndarray,
    mismatches: np.ndarray,
) -> None:
    """Offer the longest stretch around a seed, for each number of differing ids, to the query's clips."""
    for place in range(len(mismatches)):
        best, before, allowed = 0, 0, mismatches[place]
        for spent in range(allowed + 1):
            length = left[spent] + right[allowed - spent]
            if length > best:
                best, before = length, left[spent]
        _offer(table[place, number], best, clip, i - before, j - before)


@njit(**FAST)
def _offer(rows: np.ndarray, length: int, clip: int, at: int, clip_at: int) -> None:
    """Put a stretch into rows [R, 4], sorted by length, which keep the longest of each clip. Clips come in order."""
    place = len(rows) - 1
    for known in range(len(rows)):
        if rows[known, 1] == clip:
            place = known
            break
    if length <= rows[place, 0]:
        return
    while place > 0 and rows[place - 1, 0] < length:
        rows[place] = rows[place - 1]
        place -= 1
    rows[place, 0], rows[place, 1], rows[place, 2], rows[place, 3] = length, clip, at, clip_at
