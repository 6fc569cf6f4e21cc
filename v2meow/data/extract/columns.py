"""The extractors of a recipe, one a column of the examples, and the table that they make of a batch.

Legend: N clips of a batch, V video frames, T samples.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from v2meow.config import Recipe, VisualConfig
from v2meow.data.dataset import schema
from v2meow.data.extract.media import BatchMedia
from v2meow.data.manifest import Clip

Extract = Callable[[BatchMedia], np.ndarray]  # [N, values] of a batch, flattened as they are stored


@dataclass(frozen=True)
class Rows:
    """What became of a batch: the table of the clips that could be read, and why not, by id, for the others."""

    table: pa.Table
    failed: dict[str, str]


def loaders(recipe: Recipe, workspace: Path) -> dict[str, Callable[[], Extract]]:
    """How to load the extractor of each column; what is returned can be sent to other processes."""
    folder = workspace / "models" / "encoders"
    visual: dict[str, Callable[[], Extract]] = {
        f"visual_{config.kind}": partial(_load_visual, config, index, recipe.data.clip_seconds)
        for index, config in enumerate(recipe.visual)
    }
    return visual | {
        "codes": partial(_load_codes, folder / "codec"),
        "semantic": partial(_load_semantic, folder / "semantic"),
        "joint": partial(_load_joint, folder / "joint"),
    }


def rows(recipe: Recipe, media: BatchMedia, columns: dict[str, np.ndarray]) -> Rows:
    """The table of a batch from the columns [N, values] that the extractors made."""
    arrays, fields = of_the_table(media.clips), schema(recipe)
    for name, values in columns.items():
        arrays[name] = _lists(values, fields.field(name).type)
    return Rows(pa.table([arrays[name] for name in fields.names], fields), media.failed)


def of_the_table(clips: list[Clip]) -> dict[str, pa.Array]:
    """The columns that tell of clips what the clips table does."""
    arrays = {name: _text(clips, name) for name in ("clip_id", "video_id", "split", "caption")}
    attributes = [json.dumps(clip.attributes, sort_keys=True) for clip in clips]
    return arrays | {"attributes": pa.array(attributes, pa.string())}


def _text(clips: list[Clip], name: str) -> pa.Array:
    return pa.array([getattr(clip, name) for clip in clips], pa.string())


def _lists(values: np.ndarray, kind: pa.ListType) -> pa.Array:
    """[N, values] as N lists."""
    count, length = values.shape
    offsets = pa.array(np.arange(0, count * length + 1, max(length, 1), dtype=np.int32)[: count + 1])
    return pa.ListArray.from_arrays(offsets, pa.array(values.ravel(), kind.value_type))


def _load_visual(config: VisualConfig, index: int, seconds: float) -> Extract:
    from v2meow.encoders.visual import load_visual

    extract, length = load_visual(config), round(seconds * config.rate)

    def visual(media: BatchMedia) -> np.ndarray:
        found = []
        for frames, starts in zip(media.frames[index], media.starts, strict=True):
            features = extract(frames)
            for first in (round(start * config.rate) for start in starts):
                part = features[first : first + length]
                assert len(part) == length, (config.kind, features.shape, first, length)
                found.append(part.ravel())
        return np.stack(found) if found else np.zeros((0, 0), np.float32)

    return visual


def _load_codes(folder: Path) -> Extract:
    from v2meow.encoders.codec import load_codec

    codec = load_codec(folder)
    return _of_sound(lambda waveforms: codec.encode(waveforms).flatten(1).int())


def _load_semantic(folder: Path) -> Extract:
    from v2meow.encoders.semantic import load_semantic

    ids = load_semantic(folder)
    return _of_sound(lambda waveforms: ids.encode(waveforms).int())


def _load_joint(folder: Path) -> Extract:
    from v2meow.encoders.joint import load_joint

    return _of_sound(load_joint(folder).embed_audio)


def _of_sound(encode: Callable[[torch.Tensor], torch.Tensor]) -> Extract:
    """`encode` of waveforms [N, T], with nothing to do where no clip could be read."""

    @torch.inference_mode()
    def extract(media: BatchMedia) -> np.ndarray:
        if not media.clips:
            return np.zeros((0, 0), np.float32)
        return encode(torch.from_numpy(media.waveforms)).cpu().numpy()

    return extract
