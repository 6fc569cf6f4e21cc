"""Classifier-free guidance: copies of a request that keep different conditions, and the weights of their logits."""

from dataclasses import replace
from typing import NamedTuple

import torch

from v2meow.config import SamplingConfig
from v2meow.model.lm import Conditions

COPIES = 3  # of a request, at most


class GuidanceRow(NamedTuple):
    """One copy of a request in the batch: which conditions it keeps and its weight in the sum of logits."""

    video: bool
    text: bool
    weight: float


def guidance_rows(config: SamplingConfig, *, has_video: bool, has_text: bool) -> list[GuidanceRow]:
    """Rows whose weighted logits are  none + guide_video (video - none) + guide_text (both - video).

    Two scales as in InstructPix2Pix (arXiv 2211.09800, equation 3); rows of weight 0 are left out, so
    scales of 1 cost nothing. The weights add up to 1.
    """
    video = config.guide_video if has_video else 0.0
    text = config.guide_text if has_text else 0.0
    rows = [
        GuidanceRow(True, True, text),
        GuidanceRow(True, False, video - text if has_video else 0.0),
        GuidanceRow(False, False, 1 - video if has_video else 1 - text),
    ]
    return [row for row in rows if row.weight != 0]


def repeat(given: Conditions, rows: list[GuidanceRow]) -> Conditions:
    """Conditions of Q requests → of Q * R rows, request by request, each dropped where its row drops it."""
    count = len(rows)
    some = next(part for part in (*given.visual, given.joint, given.prefix) if part is not None)
    keep_video, keep_text = (
        torch.tensor(kept, device=some.device).repeat(len(some))
        for kept in ([row.video for row in rows], [row.text for row in rows])
    )
    return replace(
        given,
        visual=tuple(features.repeat_interleave(count, 0) for features in given.visual),
        joint=None if given.joint is None else given.joint.repeat_interleave(count, 0),
        prefix=None if given.prefix is None else given.prefix.repeat_interleave(count, 0),
        keep_video=keep_video,
        keep_text=keep_text,
    )
