"""Classifier-free guidance: copies of a request that keep different conditions, and the weights of their logits."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from v2meow.config import SamplingConfig
from v2meow.model.lm import Conditions

COPIES = 4  # of a request, at most


class GuidanceRow(NamedTuple):
    """One copy of a request in the batch: which conditions it keeps and its weight in the sum of logits."""

    video: bool
    text: bool
    weight: float


def guidance_rows(config: SamplingConfig, *, has_video: bool, has_text: bool) -> list[GuidanceRow]:
    """Rows whose weighted logits are  both + (guide_video - 1) (video - none) + (guide_text - 1) (text - none).

    What each condition changes is measured where the other is absent, so that a prompt which contradicts the picture
    can win: beside the picture, the model has learnt to expect nothing new of it. (InstructPix2Pix, arXiv
    2211.09800, measures the second beside the first.) Rows of weight 0 are left out, so scales of 1 cost nothing.
    The weights add up to 1.
    """
    video = config.guide_video - 1 if has_video else 0.0
    text = config.guide_text - 1 if has_text else 0.0
    alone = has_video != has_text  # then the only condition is both
    rows = [
        GuidanceRow(True, True, 1 + video + text if alone else 1.0),
        GuidanceRow(True, False, 0.0 if alone else video),
        GuidanceRow(False, True, 0.0 if alone else text),
        GuidanceRow(False, False, -video - text),
    ]
    return [row for row in rows if row.weight != 0]


def distinct(given: Conditions) -> tuple[Tensor, Tensor]:
    """Rows [n] of `given` [B] whose conditions differ, and for each row its place among them [B].

    All rows that drop the video and the text are alike, but for prefixes.
    """
    assert given.keep_video is not None and given.keep_text is not None
    first = torch.arange(len(given.keep_video), device=given.keep_video.device)
    none = ~(given.keep_video | given.keep_text)
    if none.any():
        first[none] = first[none][0].clone()
    return first.unique(return_inverse=True)


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
