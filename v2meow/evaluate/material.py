"""What an evaluation measures: held-out clips, the music a model made for them, and the real music beside it.

Gathered once and handed to every measure, so that all speak of the same pieces. Measures nothing itself.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from v2meow.config import Recipe
from v2meow.data.dataset import Examples, read_examples
from v2meow.evaluate.gate import BUNDLE
from v2meow.generate.piece import Brief, Piece
from v2meow.generate.pipeline import Cascade
from v2meow.progress import progress


@dataclass(frozen=True, kw_only=True)
class Music:
    """N pieces: waveforms float32 [N, samples], semantic ids [N, Ts] and codes [N, K, T] they were decoded from."""

    waveforms: Tensor
    ids: Tensor
    codes: Tensor

    def __len__(self) -> int:
        return len(self.waveforms)


@dataclass(frozen=True, kw_only=True)
class Material:
    """`examples` are held-out clips, one a video; `generated` was made from their pictures alone, with the row number
    as seed; `real` are their soundtracks through the codec. `train` are clips that training saw."""

    recipe: Recipe
    workspace: Path
    cascade: Cascade
    examples: Examples
    train: Examples
    generated: Music
    real: Music

    @property
    def bundle(self) -> Path:
        """The folder of the bundle that is measured."""
        return self.workspace / BUNDLE


def gather(recipe: Recipe, workspace: Path, cascade: Cascade) -> Material:
    """Read the examples of a workspace and let the cascade make music for the held-out ones."""
    examples = first_clips(read_examples(recipe, workspace, "holdout"), recipe.evaluate.videos)
    return Material(
        recipe=recipe,
        workspace=workspace,
        cascade=cascade,
        examples=examples,
        train=read_examples(recipe, workspace, "train"),
        generated=compose(cascade, examples, recipe.evaluate.batch),
        real=through_codec(cascade, examples),
    )


def first_clips(examples: Examples, count: int) -> Examples:
    """The first clip of at most `count` videos: clips of one video would count as one in a test."""
    first: dict[str, int] = {}
    for row, video in enumerate(examples.video_id):
        first.setdefault(video, row)
    return examples.select(list(first.values())[:count])


def compose(
    cascade: Cascade,
    examples: Examples,
    batch: int,
    prompts: list[str] | None = None,
    label: str = "score held-out videos",
    first_seed: int = 0,
) -> Music:
    """Music for the pictures of `examples`, without or with a prompt each; seeds are row numbers from `first_seed`.

    PromptError where the model follows no prompts.
    """
    joint = torch.stack([cascade.embed_prompt(prompt) for prompt in prompts]) if prompts else None
    made = []
    with progress(label, len(examples)) as bar:
        for rows in torch.arange(len(examples)).split(batch):
            briefs = [
                Brief(
                    visual=tuple(features[row] for features in examples.visual),
                    joint=None if joint is None else joint[row],
                    seconds=cascade.recipe.data.clip_seconds,
                    seed=first_seed + row,
                )
                for row in rows.tolist()
            ]
            made.append(_play(cascade, briefs))
            bar.advance(len(rows))
    return Music(**{name: torch.cat([getattr(part, name) for part in made]) for name in ("waveforms", "ids", "codes")})


def through_codec(cascade: Cascade, examples: Examples, batch: int = 32) -> Music:
    """The real music of examples as the codec gives it back: no model could do better."""
    waveforms = torch.cat([cascade.codec.decode(codes) for codes in examples.codes.split(batch)])
    return Music(waveforms=waveforms, ids=examples.semantic[:, 0], codes=examples.codes)


def _play(cascade: Cascade, briefs: list[Brief]) -> Music:
    pieces = [Piece(brief, cascade.recipe) for brief in briefs]
    chunks: list[list[Tensor]] = [[] for _ in pieces]
    for number, chunk in cascade.stream(pieces):
        chunks[number].append(chunk)
    return Music(
        waveforms=torch.stack([torch.cat(parts) for parts in chunks]),
        ids=torch.stack([piece.tracks["semantic"][0] for piece in pieces]),
        codes=torch.stack([piece.codes for piece in pieces]),
    )
