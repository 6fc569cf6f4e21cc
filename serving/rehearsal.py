"""The trial of a model before it is served: a second of video goes in, and sound must come out."""

import tempfile
from pathlib import Path

import numpy as np
import torch

from serving.editions import Edition
from serving.performance import Parts, Performance, whole
from v2meow.config import Recipe
from v2meow.generate.parts import PromptError
from v2meow.generate.piece import Brief, Piece
from v2meow.media import write_video

_SECONDS, _FPS, _SIDE = 1.0, 10, 64


class RehearsalError(RuntimeError):
    """A model that loads, and makes no sound that could be heard."""


async def rehearse(parts: Parts, edition: Edition, recipe: Recipe) -> None:
    """Let `edition` score a grey second through all its parts. RehearsalError, or what a part raises."""
    with tempfile.TemporaryDirectory() as folder:
        seen = await whole(parts.see(edition, grey_video(Path(folder)), None))
    piece = Piece(Brief(visual=seen.visual, joint=await _words(parts, edition), seconds=seen.seconds, seed=0), recipe)
    chunks = []
    async for item in Performance(piece, edition, parts, await parts.context(edition)):
        if isinstance(item, torch.Tensor):
            chunks.append(item)
    sound, expected = torch.cat(chunks), round(seen.seconds * recipe.codec.sample_rate)
    if len(sound) != expected or not bool(sound.isfinite().all()):
        raise RehearsalError(f"{edition.label}: a rehearsal made {len(sound)} samples of {expected}, or no numbers")


async def _words(parts: Parts, edition: Edition) -> torch.Tensor | None:
    """The vector of a prompt; None where the model follows none."""
    try:
        joint = await parts.embed(edition, "slow bells")
    except PromptError:
        return None
    if not bool(joint.isfinite().all()):
        raise RehearsalError(f"{edition.label}: the vector of a prompt holds no numbers")
    return joint


def grey_video(folder: Path) -> Path:
    """A new file there: a second that gets lighter."""
    video = folder / "rehearsal.mp4"
    pictures = (np.full((_SIDE, _SIDE, 3), 20 * number, np.uint8) for number in range(round(_SECONDS * _FPS)))
    write_video(video, pictures, _FPS, np.zeros(round(_SECONDS * 16_000), np.float32), 16_000)
    return video
