"""What Ray Train costs: the same training by the plain loop, and under Ray with one worker of as many cores."""

import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks import measure
from v2meow.config import Recipe, TrainConfig, load_recipe, recipe_path
from v2meow.data.dataset import schema
from v2meow.data.manifest import EXAMPLES
from v2meow.data.shards import write_marker
from v2meow.train import step

STAGE, LAYERS, WIDTH, HEADS, BATCH, CODES = "semantic", 4, 256, 4, 4, 504
STEPS, TRAIN, HELD_OUT, VISUAL_WIDTH = 30, 32, 4, 64


def compare_ray(rounds: int) -> dict[str, Any]:
    """The row: codes a second, medians over the steps of a training and then over the rounds, and whole trainings.

    A step's time is that of the training itself; what checkpoints, reports and the start of Ray cost besides shows in
    the seconds of whole trainings.
    """
    with tempfile.TemporaryDirectory() as folder:
        recipe, workspace = _recipe(), Path(folder)
        _write_examples(recipe, workspace)
        found: dict[str, list[float]] = {"plain": [], "ray": []}
        taken: dict[str, list[float]] = {"plain": [], "ray": []}

        def train(name: str) -> None:
            address = "local" if name == "ray" else None
            threads = int(recipe.train.cpus)
            with ProcessPoolExecutor(1, get_context("spawn"), _begin, (address, threads)) as process:
                found[name].append(process.submit(step.run, STAGE, recipe, workspace).result()["tokens_s"])

        for _ in range(rounds):  # none is free: a median step pays for no first one
            for name in found:
                taken[name].append(measure.timed(lambda name=name: train(name)))
    return {
        "bench": "train",
        "case": "ray",
        "model": f"{LAYERS}x{WIDTH}",
        "batch": f"{BATCH}x{CODES}",
        "steps": STEPS,
        "plain_tokens_s": median(found["plain"]),
        "ray_tokens_s": median(found["ray"]),
        "share_of_step": 1 - measure.ratio(found, "ray", "plain"),
        "plain_s": median(taken["plain"]),
        "ray_s": median(taken["ray"]),
    }


def _recipe() -> Recipe:
    """Nano with a wider model and clips of one window."""
    nano = load_recipe(recipe_path("nano"))
    seconds = CODES / nano.semantic_ids.rate
    stage = replace(
        nano.stages.semantic,
        layers=LAYERS,
        width=WIDTH,
        heads=HEADS,
        feed_forward=4 * WIDTH,
        window_seconds=seconds,
        batch=BATCH,
        steps=STEPS,
        max_epochs=STEPS * BATCH,
        checkpoint_steps=STEPS // 3,
    )
    return replace(
        nano,
        data=replace(nano.data, clip_seconds=seconds),
        stages=replace(nano.stages, semantic=stage),
        train=TrainConfig(cpus=float(torch.get_num_threads())),
    )


def _write_examples(recipe: Recipe, workspace: Path) -> None:
    """Random examples, as `extract` leaves them."""
    random = torch.Generator().manual_seed(0)
    pictures = [round(recipe.data.clip_seconds * extractor.rate) for extractor in recipe.visual]

    def row(number: int) -> dict[str, Any]:
        codes = torch.randint(recipe.codec.bins, (recipe.codec.levels * recipe.codec_frames,), generator=random)
        ids = torch.randint(recipe.semantic_ids.clusters, (recipe.semantic_frames,), generator=random)
        visual = {
            f"visual_{extractor.kind}": torch.randn(count * VISUAL_WIDTH, generator=random).tolist()
            for extractor, count in zip(recipe.visual, pictures, strict=True)
        }
        return {
            "clip_id": f"{number:016x}-0000",
            "video_id": f"{number:016x}",
            "split": "train" if number < TRAIN else "holdout",
            "caption": "",
            "attributes": "{}",
            "semantic": ids.tolist(),
            "codes": codes.tolist(),
            "joint": torch.randn(VISUAL_WIDTH, generator=random).tolist(),
            **visual,
        }

    folder = workspace / EXAMPLES
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist([row(number) for number in range(TRAIN + HELD_OUT)], schema(recipe))
    pq.write_table(table, folder / "part-00000.parquet")
    write_marker(folder)


def _begin(ray_address: str | None, threads: int) -> None:
    """What a training's process does first; RAY_ADDRESS decides who trains.

    A session of its own is what Ray's worker has, too: on a busy machine, Linux shares cores out by sessions.
    """
    os.setsid()
    os.environ.pop("RAY_ADDRESS", None)
    if ray_address is not None:
        os.environ["RAY_ADDRESS"] = ray_address
    torch.set_num_threads(threads)
