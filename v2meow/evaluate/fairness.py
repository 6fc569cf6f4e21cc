"""Does the music change when something about a picture changes that music should not care for?

A counterfactual audit: the same clip with one factor changed, scored with the same seed. Two pieces for the very same
clip, but with another seed, differ too: that is the baseline. A factor matters when the music it makes lies further
away than that, or always louder, or always faster.

Factors that can be changed here are the colour cast and the lighting of a recording and its left and right. For what
only a camera can change, such as who is seen, there is `audit`, of pairs of videos. What should matter is for people to
say: in the synthetic catalogue brightness is meant to make music loud.

Legend: N clips, F pictures.
"""

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from v2meow.config import Recipe
from v2meow.data.manifest import read_clips
from v2meow.data.reading import ClipMedia, read_media
from v2meow.encoders.joint import JointEncoder, load_joint
from v2meow.encoders.visual import load_visual
from v2meow.evaluate import listen
from v2meow.evaluate.material import Material
from v2meow.evaluate.resampling import interval, sign_flip_p
from v2meow.generate.files import read_features
from v2meow.generate.pipeline import Cascade
from v2meow.media import Reader
from v2meow.progress import progress

COLUMNS = ["video_a", "video_b", "factor"]
_EVIDENCE = 0.05  # p-value of all rows together up to which something stands out
_LEAST = 2  # clips, below which there is no interval
_RESEEDED = 1_000_003  # from a piece's seed to that of its second piece
_WARM = (1.15, 1.0, 0.8)  # gains of red, green and blue under a warm lamp
_DIM = 0.6  # of the light

Features = tuple[Tensor, ...]


class PairsError(ValueError):
    """A table of pairs that cannot be used; the message is one line for people."""


def warm(frames: np.ndarray) -> np.ndarray:
    """RGB frames uint8 [F, H, W, 3] under a warm lamp."""
    return np.clip(frames * np.array(_WARM, np.float32), 0, 255).round().astype(np.uint8)


def dim(frames: np.ndarray) -> np.ndarray:
    """RGB frames uint8 [F, H, W, 3] in less light."""
    return (frames * np.float32(_DIM)).round().astype(np.uint8)


def mirrored(frames: np.ndarray) -> np.ndarray:
    """RGB frames uint8 [F, H, W, 3] with left and right exchanged."""
    return np.ascontiguousarray(frames[:, :, ::-1])


TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "colour cast": warm,
    "lighting": dim,
    "mirror": mirrored,
}


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """Music [N, T] for clips as they are, with the same seeds for them changed, and with other seeds as they are."""

    plain: Tensor
    changed: Tensor
    reseeded: Tensor


def measure(material: Material) -> dict[str, Any]:
    """What `compare` finds for each of TRANSFORMS on at most `evaluate.audit_clips` held-out clips, by `factors`.

    `findings` are what stands out among them all, `skipped` is why there is nothing.
    """
    recipe = material.recipe
    media = _some_media(material)
    if len(media) < _LEAST:
        return {
            "factors": {},
            "findings": [],
            "skipped": f"{len(media)} held-out videos to audit: at least {_LEAST} are needed",
        }
    plain = _features(recipe, media, lambda frames: frames)
    seeds = list(range(len(media)))
    made = _Band(material.cascade, recipe.data.clip_seconds)
    base, again = made.play(plain, seeds), made.play(plain, [seed + _RESEEDED for seed in seeds])
    tower = load_joint(material.bundle / "encoders" / "joint")
    factors = {}
    for name, transform in TRANSFORMS.items():
        changed = made.play(_features(recipe, media, transform), seeds)
        factors[name] = compare(Pieces(plain=base, changed=changed, reseeded=again), tower, recipe)
    return {"factors": factors, "findings": findings(factors), "skipped": None}


def audit(bundle: Path, pairs: Path, *, seconds: float | None = None, seed: int = 0) -> dict[str, Any]:
    """What the music of a bundle owes to each factor of a table of pairs of videos: CSV video_a, video_b, factor.

    Both of a pair are scored with the same seed for `seconds` (default: a training clip's length), video_a also with
    another. Paths are relative to the table. PairsError, MediaError or BundleError with one line.
    """
    rows = read_pairs(pairs)
    cascade = Cascade(bundle, pieces=2)
    tower = load_joint(bundle / "encoders" / "joint")
    made = _Band(cascade, cascade.recipe.data.clip_seconds if seconds is None else seconds)
    played: dict[str, list[Tensor]] = {}
    with Reader(cascade.recipe.media) as reader, progress("score pairs of videos", len(rows)) as bar:
        for number, (a, b, factor) in enumerate(rows, seed):
            first, second = (_batch(read_features(cascade.recipe, reader, video, made.seconds)) for video in (a, b))
            music = [made.play(first, [number]), made.play(second, [number]), made.play(first, [number + _RESEEDED])]
            played.setdefault(factor, []).append(torch.cat(music))
            bar.advance()
    factors = {}
    for factor, each in played.items():
        plain, changed, reseeded = torch.stack(each).unbind(1)
        factors[factor] = compare(Pieces(plain=plain, changed=changed, reseeded=reseeded), tower, cascade.recipe)
    return {"bundle": cascade.bundle, "pairs": len(rows), "factors": factors, "findings": findings(factors)}


def read_pairs(path: Path) -> list[tuple[Path, Path, str]]:
    """(video_a, video_b, factor) of each row, at least 2 of each factor. PairsError with one line."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PairsError(f"{path}: cannot be read as CSV: {error}") from error
    if rows[:1] != [COLUMNS]:
        raise PairsError(f"{path}: the first line must be {','.join(COLUMNS)}")
    short = next((number for number, row in enumerate(rows, 1) if len(row) != len(COLUMNS) or not all(row)), None)
    if short:
        raise PairsError(f"{path}: line {short} must have a value for each of {', '.join(COLUMNS)}")
    found = [(path.parent / a, path.parent / b, factor) for a, b, factor in rows[1:]]
    names = [factor for _, _, factor in found]
    lonely = next((name for name in names if names.count(name) < _LEAST), None)
    if lonely or not found:
        what = f"factor {lonely!r} has one pair" if lonely else "there are no pairs"
        raise PairsError(f"{path}: {what}: at least {_LEAST} of each factor are needed")
    return found


class _Band:
    """Plays for features, with seeds of its own for each piece."""

    def __init__(self, cascade: Cascade, seconds: float) -> None:
        self.cascade, self.seconds = cascade, seconds

    def play(self, features: Features, seeds: list[int]) -> Tensor:
        """Music [N, T] for features [N, V, width], without a prompt."""
        return self.cascade.generate(features, None, self.seconds, seeds)


def _some_media(material: Material) -> list[ClipMedia]:
    """Pictures of evenly spread held-out clips that can be read."""
    by_id = {clip.clip_id: clip for clip in read_clips(material.workspace)}
    known = [by_id[name] for name in material.examples.clip_id if name in by_id]
    count = min(material.recipe.evaluate.audit_clips, len(known))
    chosen = [known[place] for place in np.linspace(0, len(known) - 1, count).round().astype(int).tolist()]
    return [each for each in read_media(material.recipe, material.workspace, chosen, frames=True) if not each.failure]


def _features(recipe: Recipe, media: list[ClipMedia], transform: Callable[[np.ndarray], np.ndarray]) -> Features:
    """Features [N, V, width] of each extractor of the pictures, changed by `transform`."""
    return tuple(
        torch.from_numpy(np.stack([load_visual(visual)(transform(each.frames[place])) for each in media]))
        for place, visual in enumerate(recipe.visual)
    )


def _batch(features: Features) -> Features:
    return tuple(part[None] for part in features)


def compare(pieces: Pieces, tower: JointEncoder, recipe: Recipe) -> dict[str, Any]:
    """What a factor changes in the music of N clips, in each of `_distances`: rows of `_row`, and signed `shift`s.

    `shift`: the mean change in level (dB) and tempo (octaves) with a 95 % interval and a two-sided p-value; a factor
    that makes all music louder shows there, though no piece need differ by more than a new seed makes it.
    """
    rate = recipe.codec.sample_rate
    seen = {name: _heard(music, tower, rate) for name, music in vars(pieces).items()}
    changed, reseeded = (dict(_distances(seen["plain"], seen[name])) for name in ("changed", "reseeded"))
    seed = recipe.seed
    rows = {name: _row(changed[name], reseeded[name], recipe.evaluate.permutations, seed) for name in changed}
    shifts = {
        "level_db": seen["changed"]["level"] - seen["plain"]["level"],
        "tempo_octaves": np.log2(seen["changed"]["tempo"] / seen["plain"]["tempo"]),
    }
    return {
        "count": len(pieces.plain),
        "distance": rows,
        "shift": {name: _shift(values, recipe.evaluate.permutations, seed) for name, values in shifts.items()},
    }


@torch.inference_mode()
def _heard(music: Tensor, tower: JointEncoder, rate: int) -> dict[str, np.ndarray]:
    return {
        "vector": functional.normalize(tower.embed_audio(music), dim=-1).numpy(),
        "level": listen.level_dbfs(music),
        "tempo": listen.tempo(music, rate),
        "mode": np.array([mode == "major" for mode in listen.mode(music, rate)]),
        "timbre": listen.timbre_features(music, rate),
    }


def _distances(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """How far apart the pieces of each clip are, [N] each: 1 - cosine, dB, octaves, 0 or 1, nepers."""
    yield "embedding", 1 - (one["vector"] * other["vector"]).sum(1)
    yield "level_db", np.abs(one["level"] - other["level"])
    yield "tempo_octaves", np.abs(np.log2(one["tempo"] / other["tempo"]))
    yield "mode", (one["mode"] != other["mode"]).astype(float)
    yield "timbre", np.sqrt(np.square(one["timbre"] - other["timbre"]).mean(1))


def _row(changed: np.ndarray, reseeded: np.ndarray, permutations: int, seed: int) -> dict[str, Any]:
    """Mean distances, their paired `difference` with a 95 % bootstrap interval, and a one-sided p-value of it."""
    low, high = interval(changed - reseeded, seed)
    return {
        "changed": float(changed.mean()),
        "reseeded": float(reseeded.mean()),
        "difference": float((changed - reseeded).mean()),
        "low": low,
        "high": high,
        "p_value": sign_flip_p(changed - reseeded, permutations, seed),
    }


def _shift(values: np.ndarray, permutations: int, seed: int) -> dict[str, Any]:
    low, high = interval(values, seed)
    tail = min(sign_flip_p(values, permutations, seed), sign_flip_p(-values, permutations, seed))
    return {"mean": float(values.mean()), "low": low, "high": high, "p_value": min(1.0, 2 * tail)}


def findings(factors: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that chance does not explain, though so many were looked at (Bonferroni), most certain first."""
    rows = [
        {"factor": factor, "of": of, "measure": name, "p_value": row["p_value"]}
        for factor, each in factors.items()
        for of in ("distance", "shift")
        for name, row in each[of].items()
    ]
    return sorted((row for row in rows if row["p_value"] * len(rows) <= _EVIDENCE), key=lambda row: row["p_value"])
