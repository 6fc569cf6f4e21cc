"""Which of several takes goes best with its picture, by the model's own measure.

The measure is the mean over the semantic ids of  log p(id | picture) - log p(id | no picture),  in nats: how much
likelier the picture makes just these ids. It costs two forward passes a window and needs nothing but the model.
"""

from dataclasses import replace

import torch

from v2meow.generate.piece import Piece
from v2meow.model.lm import TokenLM, token_losses


@torch.inference_mode()
def agreement(model: TokenLM, piece: Piece) -> float:
    """Nats an id that the picture is worth to the semantic ids of a finished piece, under the semantic stage."""
    gained, count = 0.0, 0
    for window in piece.windows("semantic"):
        codes = piece.tracks["semantic"][None, :, window.start : window.end].to(model.norm.weight.device)
        given = piece.conditions("semantic", window).to(codes.device)
        made = model.layout(codes.shape[2])
        with_picture, without = (
            token_losses(model(codes, replace(given, keep_video=torch.tensor([keep]).to(codes.device))), codes, made)
            for keep in (True, False)
        )
        fresh = (without - with_picture)[0, 0, window.fresh - window.start :]
        gained, count = gained + float(fresh.sum()), count + len(fresh)
    return gained / count
