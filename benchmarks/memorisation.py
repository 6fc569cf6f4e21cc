"""Looking for copies of training clips: time and memory against the number of clips, and whether copies are found."""

import argparse
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch

from benchmarks import measure
from v2meow.evaluate.memorisation import DIFFERING, SECONDS
from v2meow.evaluate.stretches import Search

RATE = 25  # ids a second
PART = 20_000  # clips that are compared at once, as a file of examples holds them
HELP = """\
Semantic ids of generated pieces against those of training clips. The ids are random, each one of few successors of
the one before or that one again, as in music. One in ten pieces is a copy of a stretch of a clip, half of these with
one id in twenty changed.

  search    every piece against every clip, through an index of the pieces
  pair by pair   every diagonal of every pair with NumPy, of so many pairs as take a moment; what all would take

  wall_s, cpu_s        seconds by the clock and of all cores; making the ids not counted
  megabytes            peak memory above what there was before
  found_exact, found_approximate   planted copies of each kind that are found, of all that were planted

  uv run --extra pipeline python -m benchmarks.memorisation --json
  uv run --extra pipeline python -m benchmarks.memorisation --clips 2000000 --ids 250 --clusters 1024
"""


@dataclass(frozen=True, kw_only=True)
class Ids:
    """A chain of ids: `follows` [clusters, successors] are those that may come after each."""

    follows: np.ndarray
    hold: float  # chance that an id stays

    def draw(self, count: int, length: int, seed: int) -> np.ndarray:
        """int32 [count, length]."""
        random, ids = np.random.default_rng(seed), np.empty((count, length), np.int32)
        ids[:, 0] = random.integers(0, len(self.follows), count)
        for place in range(1, length):
            nearer = (random.random(count) ** 2 * self.follows.shape[1]).astype(int)  # some successors are likelier
            stays, before = random.random(count) < self.hold, ids[:, place - 1]
            ids[:, place] = np.where(stays, before, self.follows[before, nearer])
        return ids


def main(arguments: list[str] | None = None) -> None:
    """Print the machine, then one row for the search and one for the plain way."""
    asked = _parser().parse_args(arguments)
    measure.emit(measure.machine(), json=asked.json)
    for row in compare(asked.pieces, asked.clips, asked.ids, asked.clusters, asked.successors, asked.hold):
        measure.emit(row, json=asked.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memorisation", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of text")
    parser.add_argument("--pieces", type=int, default=1000, help="generated pieces; default: 1000")
    parser.add_argument("--clips", type=int, default=200_000, help="training clips; default: 200000")
    parser.add_argument("--ids", type=int, default=100, help="ids of each; default: 100, which is 4 s")
    parser.add_argument("--clusters", type=int, default=256, help="different ids; default: 256")
    parser.add_argument("--successors", type=int, default=8, help="ids that may follow each; default: 8")
    parser.add_argument("--hold", type=float, default=0.4, help="chance that an id stays; default: 0.4")
    return parser


def compare(pieces: int, clips: int, ids: int, clusters: int, successors: int, hold: float) -> Iterator[dict[str, Any]]:
    """Rows of the search and of the plain way."""
    chain = Ids(follows=np.random.default_rng(0).integers(0, clusters, (clusters, successors)), hold=hold)
    queries, exact, changed = plant(chain, pieces, chain.draw(PART, ids, 1)[:clips])
    mismatches = (0, round(DIFFERING * SECONDS * RATE))
    Search(queries[:1], mismatches).add(queries[:1])  # compiles
    before, wall, cpu = _peak(), 0.0, 0.0
    search = Search(queries, mismatches, threads=torch.get_num_threads())
    for number, first in enumerate(range(0, clips, PART)):
        part = chain.draw(PART, ids, 1 + number)[: clips - first]
        wall, cpu = wall - perf_counter(), cpu - process_time()
        search.add(part)
        wall, cpu = wall + perf_counter(), cpu + process_time()
    copies = [found.length[:, 0] >= SECONDS * RATE for found in search.found()]
    yield {
        "bench": "memorisation",
        "case": "search",
        "pieces": pieces,
        "clips": clips,
        "ids": ids,
        "wall_s": wall,
        "cpu_s": cpu,
        "megabytes": _peak() - before,
        "found_exact": float(copies[0][exact].mean()),
        "found_approximate": float(copies[1][changed].mean()),
        "chance_exact": float(np.delete(copies[0], np.union1d(exact, changed)).mean()),
        "chance_approximate": float(np.delete(copies[1], np.union1d(exact, changed)).mean()),
    }
    few = chain.draw(20, ids, 1)
    start = process_time()
    for query in queries[:20]:
        for clip in few:
            _pair(query, clip)
    one = (process_time() - start) / 400
    yield {"bench": "memorisation", "case": "pair by pair", "microseconds": one * 1e6, "cpu_s": one * pieces * clips}


def plant(chain: Ids, pieces: int, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pieces [N, ids], and the numbers of those with an exact and with a changed copy of one of clips [M, ids]."""
    ids, random = clips.shape[1], np.random.default_rng(0)
    queries = chain.draw(pieces, ids, 0)
    copied = random.permutation(pieces)[: pieces // 10]
    exact, changed = np.array_split(copied, 2)
    length = round(1.2 * SECONDS * RATE)
    for number in copied:
        at, clip_at = random.integers(0, ids - length + 1, 2)
        queries[number, at : at + length] = clips[random.integers(len(clips)), clip_at : clip_at + length]
    for number in changed:
        queries[number, ::20] = (queries[number, ::20] + 1) % len(chain.follows)
    return queries, exact, changed


def _pair(query: np.ndarray, clip: np.ndarray) -> int:
    """The longest run of equal ids of two sequences, diagonal by diagonal."""
    best = 0
    for shift in range(1 - len(clip), len(query)):
        i, j = max(shift, 0), max(-shift, 0)
        overlap = min(len(query) - i, len(clip) - j)
        gaps = np.flatnonzero(query[i : i + overlap] != clip[j : j + overlap])
        best = max(best, int(np.diff(gaps, prepend=-1, append=overlap).max()) - 1)
    return best


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
