"""The step `extract`: every clip becomes one row of features and ids.

Media are decoded ahead in bounded children while the extractors work. One Parquet file a block of
clips; a clip that cannot be read is listed in failed.csv and left out.
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from v2meow.config import Recipe
from v2meow.data.dataset import schema
from v2meow.data.manifest import EXAMPLES, FAILED, Clip, read_clips, write_failed
from v2meow.data.reading import ClipMedia, read_media
from v2meow.encoders.codec import Codec
from v2meow.encoders.joint import TwoTower
from v2meow.encoders.semantic import SemanticIds
from v2meow.encoders.visual import EXTRACTORS
from v2meow.files import atomic_folder
from v2meow.progress import Progress, progress

_BATCH = 16  # clips an extractor works on at once
_BLOCK = 1024  # clips a file


class Extractors:
    """The fitted extractors of a workspace."""

    def __init__(self, recipe: Recipe, workspace: Path) -> None:
        folder = workspace / "models" / "encoders"
        self.recipe = recipe
        self.codec = Codec.load(folder / "codec")
        self.semantic = SemanticIds.load(folder / "semantic")
        self.joint = TwoTower.load(folder / "joint")

    @torch.inference_mode()
    def rows(self, batch: list[ClipMedia]) -> list[dict[str, Any]]:
        """One row of the examples table a clip."""
        waveform = torch.stack([torch.from_numpy(media.waveform) for media in batch])
        codes = self.codec.encode(waveform).flatten(1).int().numpy()
        semantic, joint = self.semantic.encode(waveform).int().numpy(), self.joint.embed_audio(waveform).numpy()
        return [
            _identity(media.clip)
            | {"semantic": semantic[i], "codes": codes[i], "joint": joint[i]}
            | {
                f"visual_{extractor.kind}": EXTRACTORS[extractor.kind](frames).ravel()
                for extractor, frames in zip(self.recipe.visual, media.frames, strict=True)
            }
            for i, media in enumerate(batch)
        ]


def run(recipe: Recipe, workspace: Path) -> dict[str, Any]:
    """Write data/examples from the clips table and the fitted extractors."""
    clips, extractors, failed = read_clips(workspace), Extractors(recipe, workspace), {}
    with atomic_folder(workspace / EXAMPLES) as folder, progress("extract", len(clips)) as bar:
        media = read_media(recipe, workspace, clips, frames=True)
        rows = _rows(extractors, media, failed, bar)
        for block in range(len(clips)):
            table = pa.Table.from_pylist(list(islice(rows, _BLOCK)), schema(recipe))
            if not table.num_rows:
                break
            pq.write_table(table, folder / f"part-{block:05d}.parquet")
        write_failed(folder / FAILED.name, failed)
    return {"examples": len(clips) - len(failed), "failed": len(failed)}


def _rows(
    extractors: Extractors, media: Iterator[ClipMedia], failed: dict[str, str], bar: Progress
) -> Iterator[dict[str, Any]]:
    while batch := list(islice(media, _BATCH)):
        failed |= {item.clip.clip_id: item.failure for item in batch if item.failure}
        readable = [item for item in batch if not item.failure]
        if readable:
            yield from extractors.rows(readable)
        bar.advance(len(batch))


def _identity(clip: Clip) -> dict[str, str]:
    return {
        "clip_id": clip.clip_id,
        "video_id": clip.video_id,
        "split": clip.split,
        "caption": clip.caption,
        "attributes": json.dumps(clip.attributes, sort_keys=True),
    }
