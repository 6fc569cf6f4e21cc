"""Does the model make music, or play its training clips again? Copies in what it made, and clips that it completes.

Two questions, both asked of semantic ids, as MusicLM's authors did (Agostinelli et al. 2023, arXiv 2301.11325,
section on memorization): the whole melody and rhythm of a piece is in them, and later stages only give it sound.

How much of a piece stands in a training clip: the longest stretch that both have in common, to the id or with one
in ten differing. Every training clip is looked through. Chance and a catalogue's own habits make stretches, too:
what real, held-out music has in common with the training clips is the baseline.

Does a training clip's beginning bring back the rest (Carlini et al. 2023, arXiv 2202.07646): see `continuation`.
"""

from collections.abc import Iterator
from math import sqrt
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from v2meow.data.manifest import EXAMPLES
from v2meow.data.shards import MARKER, read_shards
from v2meow.evaluate import continuation
from v2meow.evaluate.material import Material
from v2meow.evaluate.stretches import Search, Stretches
from v2meow.files import read_json
from v2meow.progress import progress

SECONDS = 2.0  # in common, from which on a piece counts as a copy
DIFFERING = 0.1  # share of SECONDS that may differ in an approximate copy
_NEAREST = 3  # training clips told of a piece
_TOLD = 10  # pieces, those with the longest stretches


def measure(material: Material) -> dict[str, Any]:
    """`copies` of training clips among the generated pieces, and the clips that the model completes: `continuation`."""
    found = {name: value for name, value in copies(material).items() if name != "per_clip"}
    return found | {"continuation": continuation.measure(material)}


def copies(material: Material) -> dict[str, Any]:
    """Shares of copies among the generated pieces and among real held-out music, and the pieces nearest to training.

    `exact_share` and `approximate_share` are of the generated pieces, `held_out` has the same of the real music, and
    `exact_excess` and `approximate_excess` are what the former have above the latter. `per_clip` has the seconds that
    each piece has in common with its nearest training clip, `exact_s` and `approximate_s`: lower is better.
    """
    rate, made = material.recipe.semantic_ids.rate, len(material.generated)
    queries = torch.cat((material.generated.ids, material.real.ids)).numpy()
    search = Search(queries, (0, round(DIFFERING * SECONDS * rate)), kept=_NEAREST, threads=torch.get_num_threads())
    names = look_through(material, search)
    exact, approximate = search.found()
    lengths = {"exact": exact.length[:, 0] / rate, "approximate": approximate.length[:, 0] / rate}
    generated, held_out = (shares({name: found[part] for name, found in lengths.items()}) for part in _halves(made))
    excess = {
        f"{name}_excess": generated[f"{name}_share"]["value"] - held_out[f"{name}_share"]["value"] for name in lengths
    }
    return {
        "train_clips": search.clips,
        "seconds": SECONDS,
        **generated,
        **excess,
        "held_out": held_out,
        "nearest": nearest(material.examples.clip_id, exact, approximate, names, rate),
        "per_clip": {f"{name}_s": found[:made].tolist() for name, found in lengths.items()},
    }


def _halves(made: int) -> tuple[slice, slice]:
    """Rows of the queries that are generated, and those that are real."""
    return slice(made), slice(made, None)


def look_through(material: Material, search: Search) -> list[pa.ChunkedArray]:
    """Compare with every training clip of the examples on disk, a file at a time; the clips' ids as they came."""
    folder, names = material.workspace / EXAMPLES, []
    with progress("look for copies of training clips", read_json(folder / MARKER)["rows"]) as bar:
        for table in read_shards(folder, columns=["clip_id", "split", "semantic"]):
            train = table.filter(pc.field("split") == "train")
            if len(train):
                ids = np.concatenate([chunk.flatten().to_numpy() for chunk in train["semantic"].chunks])
                search.add(ids.reshape(len(train), -1))
                names.append(train["clip_id"])
            bar.advance(len(table))
    return names


def shares(seconds: dict[str, np.ndarray]) -> dict[str, Any]:
    """`NAME_share` of pieces that have SECONDS or more in common with a training clip, of what is in common [N].

    A share has a 95 % interval and a count; `longest` is what the median piece and that with most have in common.
    """
    figures: dict[str, Any] = {"longest": {}}
    for name, found in seconds.items():
        copies = int((found >= SECONDS).sum())
        low, high = share_interval(copies, len(found))
        figures[f"{name}_share"] = {"value": copies / len(found), "low": low, "high": high, "count": len(found)}
        figures["longest"][name] = {"median_s": float(np.median(found)), "most_s": float(found.max())}
    return figures


def share_interval(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share by Wilson (1927), which is no point even where there were no hits at all."""
    z, share = 1.959964, hits / count
    middle, spread = share + z**2 / (2 * count), z * sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    low, high = ((middle + sign * spread) / (1 + z**2 / count) for sign in (-1, 1))
    return max(low, 0.0), min(high, 1.0)


def nearest(
    pieces: list[str], exact: Stretches, approximate: Stretches, names: list[pa.ChunkedArray], rate: int
) -> list[dict[str, Any]]:
    """Of the pieces with the longest approximate stretches, the training clips that they share them with.

    Seconds: how long, where it begins in the piece (`at_s`) and in the training clip (`clip_at_s`).
    """
    made = len(pieces)
    order = np.lexsort((np.arange(made), -exact.length[:made, 0], -approximate.length[:made, 0]))
    return [
        {
            "row": row,
            "clip_id": pieces[row],
            "exact_s": int(exact.length[row, 0]) / rate,
            "clips": list(_told(approximate, row, names, rate)),
        }
        for row in order[:_TOLD].tolist()
    ]


def _told(found: Stretches, row: int, names: list[pa.ChunkedArray], rate: int) -> Iterator[dict[str, Any]]:
    firsts = np.cumsum([0, *map(len, names)])
    for place in np.flatnonzero(found.clip[row] >= 0):
        clip = int(found.clip[row, place])
        part = int(np.searchsorted(firsts, clip, "right")) - 1
        yield {
            "clip_id": names[part][clip - int(firsts[part])].as_py(),
            "seconds": int(found.length[row, place]) / rate,
            "at_s": int(found.at[row, place]) / rate,
            "clip_at_s": int(found.clip_at[row, place]) / rate,
        }
