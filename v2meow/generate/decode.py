"""Decoding one stage with a key-value cache, classifier-free guidance in the same batch.

Codes that are already known (carried over from the window before, or given music) are forced;
the rest is sampled step by step. It knows ids, not codecs.

Legend: B requests, R guidance rows a request, K codebooks, T frames, S steps.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from v2meow.config import SamplingConfig
from v2meow.generate.sampling import sample
from v2meow.model.lm import Conditions, TokenLM
from v2meow.model.patterns import UNKNOWN


class GuidanceRow(NamedTuple):
    """One copy of a request in the batch: which conditions it keeps and its weight in the sum of logits."""

    video: bool
    text: bool
    weight: float


def guidance_rows(config: SamplingConfig, *, has_video: bool, has_text: bool) -> list[GuidanceRow]:
    """Rows whose weighted logits are  none + guide_video (video - none) + guide_text (both - video).

    Two scales as in InstructPix2Pix (arXiv 2211.09800, equation 3); rows of weight 0 are left out, so
    scales of 1 cost nothing.
    """
    video = config.guide_video if has_video else 0.0
    text = config.guide_text if has_text else 0.0
    rows = [
        GuidanceRow(True, True, text),
        GuidanceRow(True, False, video - text if has_video else 0.0),
        GuidanceRow(False, False, 1 - video if has_video else 1 - text),
    ]
    return [row for row in rows if row.weight != 0]


@torch.inference_mode()
def decode(
    model: TokenLM, given: Conditions, known: Tensor, config: SamplingConfig, generators: list[torch.Generator]
) -> Tensor:
    """Codes int64 [B, K, T]: `known` [B, K, T] with every UNKNOWN sampled. One generator a request.

    Codes must be known for the same frames in all requests (a common window position).
    """
    batch, _, frames = known.shape
    layout = model.layout(frames)
    rows = guidance_rows(config, has_video=bool(model.spec.visual), has_text=given.joint is not None)
    weights = torch.tensor([row.weight for row in rows]).view(-1, 1, 1, 1)
    sequence = layout.build(known, model.empty)  # [B, S, K]
    open_steps = (sequence == UNKNOWN).any(-1).any(0).nonzero()
    if not len(open_steps):
        return known
    inputs = torch.cat((sequence.new_full((batch, 1, sequence.shape[2]), model.empty), sequence), dim=1)
    state = model.start(_repeat(given, rows, batch), batch * len(rows), layout.steps)
    first = int(open_steps[0])
    done = 0
    for step in range(first, layout.steps):
        logits = model.step(inputs[:, done : step + 1].repeat(len(rows), 1, 1), done, state)[:, -1]
        guided = (logits.unflatten(0, (len(rows), batch)) * weights.to(logits)).sum(0)  # [B, K, bins]
        wanted = sequence[:, step]
        drawn = torch.where(wanted == UNKNOWN, sample(guided, config, generators), wanted)
        inputs[:, step + 1] = drawn
        done = step + 1
    return layout.revert(inputs[:, 1:])


def _repeat(given: Conditions, rows: list[GuidanceRow], batch: int) -> Conditions:
    """Conditions of R * B rows, guidance row by guidance row, each dropped where its row drops it."""
    count = len(rows)

    def keep(kept: list[bool]) -> Tensor:
        return torch.tensor(kept).repeat_interleave(batch)

    return replace(
        given,
        visual=tuple(features.repeat(count, 1, 1) for features in given.visual),
        joint=None if given.joint is None else given.joint.repeat(count, 1),
        prefix=None if given.prefix is None else given.prefix.repeat(count, 1, 1),
        keep_video=keep([row.video for row in rows]),
        keep_text=keep([row.text for row in rows]),
    )
