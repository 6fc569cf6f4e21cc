"""Training the small music-text model, and how well any such model finds a caption for music and music for a caption.

Legend: N clips, C distinct captions, W windows, D numbers that describe a window.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from v2meow.encoders.joint import TwoTower
from v2meow.train.optim import make_optimizer, rate_at, set_rate

_WEIGHT_DECAY = 0.01
_RANKS = (1, 10)


def train_two_tower(
    model: TwoTower, windows: Tensor, captions: list[str], seed: int, on_step: Callable[[float], None]
) -> None:
    """Fit `model` in place to the described windows [N, W, D] of clips and their captions.

    A step sees one window of a clip, because that is what the vector of longer music is the mean of.
    """
    config, generator = model.config, torch.Generator().manual_seed(seed)
    model.standardise(windows.flatten(0, 1))
    optimizer = make_optimizer(model, config.learning_rate, _WEIGHT_DECAY)
    model.train()
    for step in range(config.steps):
        set_rate(optimizer, rate_at(step, peak=config.learning_rate, warmup=10, total=config.steps))
        rows = torch.randperm(len(windows), generator=generator)[: config.batch]
        parts = torch.randint(windows.shape[1], (len(rows),), generator=generator)
        loss = model.loss(windows[rows, parts], [captions[row] for row in rows.tolist()])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        on_step(loss.item())
    model.eval()


def retrieval(audio: Tensor, captions: list[str], text: Tensor, distinct: list[str]) -> dict[str, float]:
    """Recall of unit vectors `audio` [N, width] with one caption each, and `text` [C, width] of distinct captions.

    `recall_at_K`: share of the music whose own caption is among the K nearest. `text_recall_at_K`: share of the
    captions that have music of their own among the K nearest. Beside each at 1 stands what chance would find.
    """
    similarity = audio @ text.T
    own = torch.tensor([distinct.index(caption) for caption in captions])
    belongs = own[:, None] == torch.arange(len(distinct))
    rank_of_caption = (similarity > similarity[belongs][:, None]).sum(1)
    best = similarity.masked_fill(~belongs, -torch.inf).amax(0)
    rank_of_music = (similarity > best).sum(0)
    return {
        **{f"recall_at_{k}": float((rank_of_caption < k).float().mean()) for k in _RANKS},
        **{f"text_recall_at_{k}": float((rank_of_music < k).float().mean()) for k in _RANKS},
        "chance_at_1": 1 / len(distinct),
        "text_chance_at_1": float(belongs.float().mean()),
        "held_out_pairs": len(captions),
    }
