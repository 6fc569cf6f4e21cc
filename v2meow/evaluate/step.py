"""The step `evaluate`: assemble the bundle, let it score held-out videos, and measure what it made."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from v2meow import bundle, weights
from v2meow.config import STAGES, Recipe
from v2meow.data.dataset import Examples, read_examples
from v2meow.data.manifest import EXAMPLES
from v2meow.data.shards import MARKER
from v2meow.evaluate import (
    baselines,
    card,
    correspondence,
    fairness,
    listen,
    memorisation,
    planted,
    production,
    samples,
    slices,
    sound,
)
from v2meow.evaluate.agreement import correlation_test
from v2meow.evaluate.gate import BUNDLE, REPORTS
from v2meow.evaluate.material import Material, Music, compose, gather
from v2meow.evaluate.profile import LEAST, Profile, Yardstick
from v2meow.evaluate.summary import quality, summary
from v2meow.files import read_json, write_json
from v2meow.generate.parallel import ParallelEngine
from v2meow.generate.parts import VISUAL, StageEngine
from v2meow.generate.pipeline import Cascade
from v2meow.generate.request import Request
from v2meow.model.io import load_stage
from v2meow.model.lm import TokenLM
from v2meow.train.batches import held_out_batches, make_batch
from v2meow.train.loop import Batch, held_out_loss, loss_of
from v2meow.weights import METRICS

_ENCODERS = ("encoders/codec", "encoders/semantic", "encoders/joint")


def run(recipe: Recipe, workspace: Path) -> dict[str, Any]:
    """Write models/bundle, reports/metrics.json and reports/samples."""
    torch.manual_seed(recipe.seed)
    assemble(workspace, workspace / BUNDLE)
    material = gather(recipe, workspace, Cascade(workspace / BUNDLE, pieces=recipe.evaluate.batch))
    metrics, scores = measure(material)
    samples.write(material, scores)
    write_json(workspace / REPORTS / "metrics.json", metrics)
    return summary(metrics)


def measure(material: Material) -> tuple[dict[str, Any], dict[str, list[float | None]]]:
    """All that metrics.json tells, and by measure what each clip scored (higher is better)."""
    yardstick = Yardstick(material)
    excess = production.excess_of(material.bundle, material.cascade, material, material.generated)
    profile = yardstick.profile(material.generated, excess)
    fits = correspondence.measure(material, yardstick.judge)
    scores = per_clip(profile, fits)
    held_out = read_examples(material.recipe, material.workspace, "holdout")
    metrics = {
        "bundle": material.cascade.bundle,
        "videos": len(material.examples),
        "audio": audio_figures(material.generated, material.recipe.codec.sample_rate),
        "loss": losses(material.recipe, material.bundle, held_out),
        "decoder": {"agreement": decoder_agreement(material)},
        "codec": _figures(material.bundle / "encoders" / "codec"),
        "joint": _figures(material.bundle / "encoders" / "joint"),
        "level": _level_agreement(material),
        "planted": _planted(material, yardstick),
        "contradicted": _contradicted(material, yardstick),
        "correspondence": {name: found for name, found in fits.items() if name != "per_clip"},
        "quality": quality(yardstick, profile),
        "surprise": {name: baselines.mean_row(values, material.recipe.seed) for name, values in excess.items()},
        "baselines": baselines.measure(material, yardstick),
        "production": production.measure(material, yardstick, profile),
        "memorisation": memorisation.measure(material),
        "fairness": fairness.measure(material),
        "slices": slices.measure(material, scores),
    }
    return metrics, scores


def per_clip(profile: Profile, fits: dict[str, Any]) -> dict[str, list[float | None]]:
    """What each clip scored in what is known of single clips, the higher the better."""
    planted_scores = {
        name: np.diag(values).tolist() for name, values in profile.pairs.items() if name.startswith("planted.")
    }
    sure = {name: (-values).tolist() for name, values in profile.scores.items() if name == "surprise.semantic"}
    return fits["per_clip"] | planted_scores | sure


def assemble(workspace: Path, folder: Path) -> None:
    """Put the three stages, the extractors, the recipe and a model card into one bundle, weights in float16.

    Of pretrained visual extractors, the fingerprints of the weights that the examples were made with.
    """
    models, names = workspace / "models", (*STAGES, *_ENCODERS)
    with TemporaryDirectory(dir=models, prefix=".halved.") as name:
        scratch = Path(name)
        for name in names:
            weights.halve(models / name, scratch / name)
        (scratch / "MODEL_CARD.md").write_text(card.write(workspace))
        parts = {name: scratch / name for name in (*names, "MODEL_CARD.md")}
        if visual := read_json(workspace / EXAMPLES / MARKER).get("visual"):
            write_json(scratch / VISUAL, visual)
            parts[VISUAL] = scratch / VISUAL
        bundle.assemble(parts | {"recipe.yaml": workspace / "recipe.yaml"}, folder)


def audio_figures(music: Music, sample_rate: int) -> dict[str, float]:
    """Level and defects of the pieces, means over all."""
    levels = listen.level_dbfs(music.waveforms)
    return {
        "level_dbfs": float(levels.mean()),
        "loudness_lufs": float(sound.loudness(music.waveforms, sample_rate).mean()),
        "silent_share": float((levels < listen.SILENT_DBFS).mean()),
        "clipping_share": float((listen.clipped_share(music.waveforms) > 1e-4).mean()),
        "count": len(music),
    }


def losses(recipe: Recipe, folder: Path, examples: Examples) -> dict[str, Any]:
    """Held-out loss of each stage by level (nats a code); for the semantic stage also with a wrong video."""
    figures: dict[str, Any] = {}
    for name in STAGES:
        stage = load_stage(folder / name)
        by_level = held_out_loss(stage, held_out_batches(recipe, name, examples))
        figures[name] = {"by_level": by_level.tolist(), "mean": float(by_level.mean())}
        if name == "semantic":
            figures[name] |= _video_margin(recipe, stage, examples)
    return figures


@torch.inference_mode()
def decoder_agreement(material: Material) -> float:
    """Share of held-out codes for which the decoder, in the recipe's precision, has the plain model's favourite.

    The plain model sees a window in one pass; the decoder takes its steps, over its own cache, and is told after each
    which code it really was.
    """
    same, count = 0, 0
    for name in STAGES:
        plain, engine = load_stage(material.bundle / name), material.cascade.engines[name]
        for batch in held_out_batches(material.recipe, name, material.examples):
            agree = _favourites(plain, batch) == _decoded_favourites(engine, batch)
            same += int(agree.sum())
            count += agree.numel()
    return same / count


def _favourites(model: TokenLM, batch: Batch) -> Tensor:
    """The likeliest codes [B, K, T] by one pass, on the CPU."""
    moved = batch.to(model.norm.weight.device)
    likeliest = model(moved.codes, moved.conditions, moved.hidden).argmax(-1)
    return model.layout(batch.codes.shape[2]).revert(likeliest).cpu()


def _decoded_favourites(engine: StageEngine, batch: Batch) -> Tensor:
    """The likeliest codes [B, K, T] by the engine's steps; in layout parallel, by the pass that its steps are."""
    if isinstance(engine, ParallelEngine):
        return _favourites(engine.model, batch)
    rows = torch.arange(len(batch.codes)).split(1)
    requests = [Request(batch.conditions.take(row), batch.codes[row[0]], seed=0) for row in rows]
    return torch.stack(engine.favourites(requests))


@torch.inference_mode()
def _video_margin(recipe: Recipe, model: TokenLM, examples: Examples) -> dict[str, float]:
    """Loss without text with the right and a wrong video; `margin` is what the right picture is worth, in nats."""
    rows = torch.arange(len(examples))
    other = torch.tensor(_another_video(examples.video_id))
    totals = {"right": 0.0, "wrong": 0.0}
    for part in rows.split(recipe.evaluate.batch):
        for name, source in (("right", part), ("wrong", other[part])):
            batch = make_batch(recipe, "semantic", examples, part)
            batch.conditions.visual = make_batch(recipe, "semantic", examples, source).conditions.visual
            batch.conditions.joint = None
            totals[name] += float(loss_of(model, batch).mean()) * len(part) / len(rows)
    return {f"{name}_video": value for name, value in totals.items()} | {"margin": totals["wrong"] - totals["right"]}


def _another_video(videos: list[str]) -> list[int]:
    """For each row the row, half a table on or the next after it, that belongs to another video (or itself)."""
    count = len(videos)
    return [
        next((j for step in range(count) if videos[j := (i + count // 2 + step) % count] != videos[i]), i)
        for i in range(count)
    ]


def _level_agreement(material: Material) -> dict[str, Any] | None:
    """Correlation of the generated level with the real soundtrack's, for any catalogue; None below three videos."""
    if len(material.generated) < LEAST:
        return None
    made, real = (listen.level_dbfs(music.waveforms) for music in (material.generated, material.real))
    return vars(correlation_test(made, real, material.recipe.evaluate.permutations, material.recipe.seed))


def _planted(material: Material, yardstick: Yardstick) -> dict[str, Any] | None:
    """Planted-truth measures of the picture; None where the catalogue plants too little to test."""
    if yardstick.listener is None or yardstick.factors is None:
        return None
    return planted.measure(
        yardstick.listener,
        material.generated.waveforms,
        material.real.waveforms,
        yardstick.factors,
        permutations=material.recipe.evaluate.permutations,
        seed=material.recipe.seed,
    )


def _contradicted(material: Material, yardstick: Yardstick) -> dict[str, float] | None:
    """Whether a prompt that contradicts the picture wins; None where planted truth cannot be tested."""
    if yardstick.listener is None or yardstick.factors is None:
        return None
    prompts, told = planted.contradict(yardstick.factors, material.recipe.seed)
    label = "score contradicting prompts"
    prompted = compose(material.cascade, material.examples, material.recipe.evaluate.batch, prompts, label)
    return planted.followed(yardstick.listener, prompted.waveforms, yardstick.factors, told)


def _figures(folder: Path) -> dict[str, Any]:
    """A model folder's metrics without its loss curve."""
    return {name: value for name, value in read_json(folder / METRICS).items() if name != "curve"}
