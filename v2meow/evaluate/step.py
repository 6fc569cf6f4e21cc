"""The step `evaluate`: assemble the bundle, let it score held-out videos, and measure what it made."""

import json
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
from v2meow.evaluate import card, listen, planted
from v2meow.evaluate.agreement import correlation_scores, permutation_test
from v2meow.evaluate.gate import BUNDLE, REPORTS
from v2meow.files import atomic_folder, read_json, write_json
from v2meow.generate.parts import VISUAL
from v2meow.generate.pipeline import Cascade
from v2meow.media import write_wav
from v2meow.model.io import load_stage
from v2meow.model.lm import TokenLM
from v2meow.progress import progress
from v2meow.train.batches import held_out_batches, make_batch
from v2meow.train.loop import held_out_loss, loss_of
from v2meow.weights import METRICS

_ENCODERS = ("encoders/codec", "encoders/semantic", "encoders/joint")
_SAMPLES = 8  # pairs of real and generated music kept to listen to
_LISTENER_CLIPS = 256  # training clips that the timbre classifier is fitted on


def run(recipe: Recipe, workspace: Path) -> dict[str, Any]:
    """Write models/bundle, reports/metrics.json and reports/samples."""
    torch.manual_seed(recipe.seed)
    folder = workspace / BUNDLE
    assemble(workspace, folder)
    cascade = Cascade(folder, pieces=recipe.evaluate.batch)
    examples = first_clips(read_examples(recipe, workspace, "holdout"), recipe.evaluate.videos)
    generated = score(cascade, examples, recipe.evaluate.batch)
    real = cascade.codec.decode(examples.codes)
    metrics = {
        "bundle": cascade.bundle,
        "videos": len(examples),
        "audio": audio_figures(generated),
        "loss": losses(recipe, folder, read_examples(recipe, workspace, "holdout")),
        "decoder": {"agreement": decoder_agreement(recipe, cascade, folder, examples)},
        "codec": _figures(folder / "encoders" / "codec"),
        "joint": _figures(folder / "encoders" / "joint"),
        "level": _level_agreement(recipe, generated, real),
        **_planted(recipe, workspace, cascade, examples, generated, real),
    }
    write_samples(workspace / REPORTS / "samples", recipe, examples, generated, real)
    write_json(workspace / REPORTS / "metrics.json", metrics)
    return summary(metrics)


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


def first_clips(examples: Examples, count: int) -> Examples:
    """The first clip of at most `count` videos: clips of one video would count as one in a test."""
    first: dict[str, int] = {}
    for row, video in enumerate(examples.video_id):
        first.setdefault(video, row)
    return examples.select(list(first.values())[:count])


def score(cascade: Cascade, examples: Examples, batch: int, prompts: list[str] | None = None) -> Tensor:
    """Music [N, T] for the pictures of `examples`, without or with a prompt each, with the row number as seed."""
    seconds = cascade.recipe.data.clip_seconds
    joint = torch.stack([cascade.embed_prompt(prompt) for prompt in prompts]) if prompts else None
    made = []
    with progress("score held-out videos", len(examples)) as bar:
        for rows in torch.arange(len(examples)).split(batch):
            visual = tuple(features[rows] for features in examples.visual)
            made.append(cascade.generate(visual, None if joint is None else joint[rows], seconds, rows.tolist()))
            bar.advance(len(rows))
    return torch.cat(made)


def audio_figures(waveforms: Tensor) -> dict[str, float]:
    """Level and defects of waveforms [N, T]."""
    levels = listen.level_dbfs(waveforms)
    return {
        "level_dbfs": float(levels.mean()),
        "silent_share": float((levels < listen.SILENT_DBFS).mean()),
        "clipping_share": float((listen.clipped_share(waveforms) > 1e-4).mean()),
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
def decoder_agreement(recipe: Recipe, cascade: Cascade, folder: Path, examples: Examples) -> float:
    """Share of held-out codes for which the decoder, in the recipe's precision, has the plain model's favourite."""
    same, count = 0, 0
    for name in STAGES:
        plain, packed = load_stage(folder / name), cascade.engines[name].model
        for batch in held_out_batches(recipe, name, examples):
            favourites = []
            for model in (plain, packed):
                moved = batch.to(model.norm.weight.device)
                favourites.append(model(moved.codes, moved.conditions, moved.hidden).argmax(-1).cpu())
            same += int((favourites[0] == favourites[1]).sum())
            count += favourites[0].numel()
    return same / count


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


def _level_agreement(recipe: Recipe, generated: Tensor, real: Tensor) -> dict[str, float] | None:
    """Correlation of the generated level with the real soundtrack's, for any catalogue; None below three videos."""
    if len(generated) < 3:
        return None
    scores = correlation_scores(listen.level_dbfs(generated), listen.level_dbfs(real))
    return vars(permutation_test(scores, recipe.evaluate.permutations, recipe.seed))


def _planted(
    recipe: Recipe, workspace: Path, cascade: Cascade, examples: Examples, generated: Tensor, real: Tensor
) -> dict[str, Any]:
    """Planted-truth measures of the picture and of the prompt; Nones where the catalogue plants too little to test."""
    factors, nothing = planted.factors_of(examples.attributes), {"planted": None, "contradicted": None}
    if factors is None or len(examples) < 3:
        return nothing
    train = read_examples(recipe, workspace, "train")
    train = train.select(list(range(0, len(train), max(1, len(train) // _LISTENER_CLIPS))))
    taught = planted.factors_of(train.attributes)
    if taught is None:
        return nothing
    heard = torch.cat([cascade.codec.decode(codes) for codes in train.codes.split(32)])
    listener = planted.Listener(heard, taught, recipe.codec.sample_rate)
    permutations, seed = recipe.evaluate.permutations, recipe.seed
    prompts, told = planted.contradict(factors, seed)
    prompted = score(cascade, examples, recipe.evaluate.batch, prompts)
    return {
        "planted": planted.measure(listener, generated, real, factors, permutations=permutations, seed=seed),
        "contradicted": planted.followed(listener, prompted, factors, told),
    }


def write_samples(folder: Path, recipe: Recipe, examples: Examples, generated: Tensor, real: Tensor) -> None:
    """Pairs to listen to: NNN-generated.wav and NNN-real.wav (the real one after the codec), and samples.json."""
    rows = np.linspace(0, len(examples) - 1, min(_SAMPLES, len(examples))).round().astype(int).tolist()
    with atomic_folder(folder) as temporary:
        for row in rows:
            write_wav(temporary / f"{row:03d}-generated.wav", generated[row].numpy(), recipe.codec.sample_rate)
            write_wav(temporary / f"{row:03d}-real.wav", real[row].numpy(), recipe.codec.sample_rate)
        listed = [
            {
                "number": f"{row:03d}",
                "clip_id": examples.clip_id[row],
                "caption": examples.caption[row],
                "attributes": json.loads(examples.attributes[row]),
            }
            for row in rows
        ]
        write_json(temporary / "samples.json", listed)


def _figures(folder: Path) -> dict[str, Any]:
    """A model folder's metrics without its loss curve."""
    return {name: value for name, value in read_json(folder / METRICS).items() if name != "curve"}


def summary(metrics: dict[str, Any]) -> dict[str, Any]:
    """The few figures that are printed."""
    figures = {
        "videos": metrics["videos"],
        **metrics["audio"],
        "semantic_margin": metrics["loss"]["semantic"]["margin"],
    }
    for name, found in (metrics["planted"] or {}).items():
        text = "{right:.2f} with the right video, {wrong:.2f} with wrong ones, p = {p_value:.2g}"
        figures[name] = text.format(**found)
    if metrics["contradicted"]:
        text = "{prompt:.2f} have the timbre of a contradicting prompt, {picture:.2f} that of the picture"
        figures["prompt"] = text.format(**metrics["contradicted"])
    return figures
