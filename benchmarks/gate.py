"""Does the gate let good models through and stop bad ones? Its power, by gates of a few clips drawn from many."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import measure
from v2meow.config import CriterionConfig, Recipe, load_recipe, recipe_path
from v2meow.data import clips, extract, synthetic
from v2meow.data.dataset import Examples, read_examples
from v2meow.data.manifest import CLIPS, RAW, read_clips, write_clips
from v2meow.evaluate import listen, memorisation, production
from v2meow.evaluate.agreement import permutation_test
from v2meow.evaluate.baselines import mean_row, random_tracks
from v2meow.evaluate.gate import BUNDLE, judge
from v2meow.evaluate.material import Material, Music, compose, first_clips, through_codec
from v2meow.evaluate.profile import Profile, Yardstick, nested
from v2meow.files import read_json
from v2meow.generate.piece import Brief, Piece
from v2meow.generate.pipeline import Cascade
from v2meow.model.patterns import UNKNOWN
from v2meow.progress import progress
from v2meow.release import SHIPPED

SAMPLES = 64  # clips a gate
PERMUTATIONS = 2000
TRAINED_SEED, UNSEEN_SEED = 1, 1_000_001  # of the catalogue that the shipped model learnt from, and of another one
HELP = """\
The model that comes with the package scores synthetic videos that it never saw. Production is its music with one seed,
and these stand as candidates:

  same model      its music with other seeds: a gate must let it through
  wrong videos    music made for another one of the videos
  damaged ids     5 of 100 ids are random, in each stage before the next one begins
  training clips  real music that it was trained on, handed out as new

Each gate draws 64 of the clips, without putting back, and asks the criteria of a recipe about them; what is
no property of the music (the decoder's agreement, the loss) is taken as it was measured once.

  passed     gates that were passed, of how many
  stopped_by by criterion, how many gates it alone would have stopped

  uv run --extra pipeline python -m benchmarks.gate --json
"""


@dataclass(frozen=True, kw_only=True)
class Heard:
    """All that gates ask of one candidate's music for N clips."""

    profile: Profile
    copied: np.ndarray  # seconds [N] that stand in a training clip
    levels: np.ndarray  # dBFS [N]
    clipped: np.ndarray  # share of samples [N]


def main(arguments: list[str] | None = None) -> None:
    """Print the machine, then one row a candidate."""
    asked = _parser().parse_args(arguments)
    measure.emit(measure.machine(), json=asked.json)
    criteria = load_recipe(recipe_path(asked.recipe)).gate
    with TemporaryDirectory() as folder:
        material = prepare(Path(asked.work or folder), asked.videos, asked.learnt)
        started = process_time()
        yardstick = Yardstick(material)
        heard = {name: listen_to(yardstick, music) for name, music in candidates(material)}
        measure.emit({"clips": len(material.examples), "hearing_cpu_s": process_time() - started}, json=asked.json)
        reference = yardstick.reference
    known = read_json(SHIPPED / "nano-metrics.json")
    standard = heard.pop("production")
    for name, candidate in heard.items():
        row = simulate(candidate, standard, reference, criteria, known, gates=asked.gates, samples=asked.samples)
        measure.emit({"candidate": name, **row}, json=asked.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gate", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of text")
    parser.add_argument("--recipe", default="nano", help="whose gate is asked; default: nano")
    parser.add_argument("--videos", type=int, default=128, help="videos that the model never saw; default: 128")
    parser.add_argument("--learnt", type=int, default=256, help="videos of its own catalogue; default: 256")
    parser.add_argument("--gates", type=int, default=100, help="of each candidate; default: 100")
    parser.add_argument("--samples", type=int, default=SAMPLES, help=f"clips a gate; default: {SAMPLES}")
    parser.add_argument("--work", metavar="DIR", help="keep the videos there and use them the next time")
    return parser


def prepare(place: Path, videos: int, learnt: int) -> Material:
    """A workspace of both catalogues' videos, through the steps of the pipeline, and the music of production."""
    recipe = load_recipe(SHIPPED / "nano" / "recipe.yaml")
    recipe = replace(recipe, evaluate=replace(recipe.evaluate, videos=videos))
    synthetic.make(place / RAW / "learnt", TRAINED_SEED, learnt)
    synthetic.make(place / RAW / "unseen", UNSEEN_SEED, videos)
    for name, target in ((BUNDLE, SHIPPED / "nano"), (Path("models/encoders"), SHIPPED / "nano" / "encoders")):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).unlink(missing_ok=True)
        (place / name).symlink_to(target, target_is_directory=True)
    clips.run(recipe, place)
    unseen = str(RAW / "unseen")
    kept = [clip for clip in read_clips(place) if clip.path.startswith(unseen) or clip.split == "train"]
    write_clips(
        place / CLIPS,
        [replace(clip, split="holdout" if clip.path.startswith(unseen) else "train") for clip in kept],
    )
    extract.run(recipe, place)
    cascade = Cascade(place / BUNDLE, pieces=recipe.evaluate.batch)
    examples = first_clips(read_examples(recipe, place, "holdout"), videos)
    return Material(
        recipe=recipe,
        workspace=place,
        cascade=cascade,
        examples=examples,
        train=read_examples(recipe, place, "train"),
        generated=compose(cascade, examples, recipe.evaluate.batch, label="production"),
        real=through_codec(cascade, examples),
    )


def candidates(material: Material) -> Iterator[tuple[str, Music]]:
    """Production's music, then that of each candidate."""
    batch, count = material.recipe.evaluate.batch, len(material.examples)
    yield "production", material.generated
    again = compose(material.cascade, material.examples, batch, label="same model", first_seed=count)
    yield "same model", again
    other = (torch.arange(count) + count // 2) % count
    turned = material.examples.select(other.tolist())
    yield "wrong videos", compose(material.cascade, turned, batch, label="wrong videos", first_seed=count)
    yield "damaged ids", damaged(material, share=0.05)
    yield "training clips", random_tracks(material)


def damaged(material: Material, share: float) -> Music:
    """Music for the held-out pictures with random ids in that share of places, in each stage before the next."""
    recipe, examples, random = material.recipe, material.examples, torch.Generator().manual_seed(0)
    kc, levels = recipe.stages.coarse_levels, recipe.codec.levels
    ids = _randomised(material.generated.ids, recipe.semantic_ids.clusters, share, random)
    nothing = torch.full((len(examples), levels, 0), UNKNOWN)
    coarse = _go_on(material, ids, nothing, "damaged ids")[:, :kc]
    coarse = _randomised(coarse, recipe.codec.bins, share, random)
    known = torch.cat((coarse, torch.full((len(examples), levels - kc, coarse.shape[2]), UNKNOWN)), dim=1)
    fine = _go_on(material, ids, known, "damaged coarse codes")[:, kc:]
    codes = torch.cat((coarse, _randomised(fine, recipe.codec.bins, share, random)), dim=1)
    waveforms = torch.cat([material.cascade.codec.decode(part) for part in codes.split(32)])
    return Music(waveforms=waveforms, ids=ids, codes=codes)


def _randomised(codes: Tensor, bins: int, share: float, random: torch.Generator) -> Tensor:
    hit = torch.rand(codes.shape, generator=random) < share
    return torch.where(hit, torch.randint(0, bins, codes.shape, generator=random), codes)


def _go_on(material: Material, ids: Tensor, codes: Tensor, label: str) -> Tensor:
    """Codes [N, K, T] of pieces whose ids [N, Ts] are given, and their codes [N, K, t] as far as they are known."""
    cascade, examples = material.cascade, material.examples
    made = []
    with progress(label, len(ids)) as bar:
        for rows in torch.arange(len(ids)).split(material.recipe.evaluate.batch):
            pieces = [_piece(material.recipe, examples, row, ids[row], codes[row]) for row in rows.tolist()]
            for _ in cascade.stream(pieces):
                pass
            made += [piece.codes for piece in pieces]
            bar.advance(len(rows))
    return torch.stack(made)


def _piece(recipe: Recipe, examples: Examples, row: int, ids: Tensor, codes: Tensor) -> Piece:
    visual = tuple(features[row] for features in examples.visual)
    seconds = recipe.data.clip_seconds
    return Piece(Brief(visual=visual, joint=None, seconds=seconds, seed=row, ids=ids, codes=codes), recipe)


def listen_to(yardstick: Yardstick, music: Music) -> Heard:
    """Measure one candidate's music as an evaluation does."""
    material = replace(yardstick.material, generated=music)
    excess = production.excess_of(material.bundle, material.cascade, material, music)
    return Heard(
        profile=yardstick.profile(music, excess),
        copied=np.array(memorisation.copies(material)["per_clip"]["exact_s"]),
        levels=listen.level_dbfs(music.waveforms),
        clipped=listen.clipped_share(music.waveforms),
    )


def simulate(
    candidate: Heard,
    standard: Heard,
    reference: dict[str, np.ndarray],
    criteria: tuple[CriterionConfig, ...],
    known: dict[str, Any],
    *,
    gates: int,
    samples: int,
) -> dict[str, Any]:
    """How many of `gates` the candidate passes beside the standard, and which criteria stop it how often.

    `known` has the metrics that no sample of clips changes.
    """
    passed, stopped = 0, {}
    for number in range(gates):
        rows = np.random.default_rng(number).permutation(len(candidate.levels))[:samples]
        metrics = known | drawn(candidate, standard, reference, rows, seed=number)
        failed = [line for line in (judge(criterion, metrics) for criterion in criteria) if not line["passed"]]
        passed += not failed
        for line in failed:
            name = f"production.{line['metric']}" if line["not_worse_than_production"] else line["metric"]
            stopped[name] = stopped.get(name, 0) + 1
    return {"passed": passed, "gates": gates, "stopped_by": stopped}


def drawn(
    candidate: Heard, standard: Heard, reference: dict[str, np.ndarray], rows: np.ndarray, seed: int
) -> dict[str, Any]:
    """What metrics.json would say of the music were `rows` all the clips there are."""
    profile = candidate.profile.take(rows)
    compared = production.compare(profile, standard.profile.take(rows), reference, seed)
    agreements = {name: vars(permutation_test(scores, PERMUTATIONS, seed)) for name, scores in profile.pairs.items()}
    surprises = {name: mean_row(values, seed) for name, values in profile.scores.items() if name.startswith("surprise")}
    return nested(agreements | surprises) | {
        "audio": {
            "silent_share": float((candidate.levels[rows] < listen.SILENT_DBFS).mean()),
            "clipping_share": float((candidate.clipped[rows] > 1e-4).mean()),
            "count": len(rows),
        },
        "memorisation": {"exact_excess": float((candidate.copied[rows] >= memorisation.SECONDS).mean())},
        "production": {"model": "v2meow", "version": "v1", "bundle": ""} | nested(compared),
    }


if __name__ == "__main__":
    main()
