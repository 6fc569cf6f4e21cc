"""Activation checkpointing and compilation, applied to a model from outside and taken off again.

Both work block by block: a block is where most activations are, and one compiled block serves all of them.
What the model computes stays the same; its parameters keep their names.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from v2meow.config import StageConfig
from v2meow.model.lm import TokenLM


@contextmanager
def wrapped(model: TokenLM, config: StageConfig) -> Iterator[None]:
    """Inside the block, the transformer's blocks run as `config` says: recomputed, compiled, both or neither."""
    blocks = [*model.blocks, *model.encoder]
    for block in blocks:
        forward: Callable[..., Tensor] = block.forward
        if config.checkpoint_activations:
            forward = _recomputed(forward)
        if config.compile:
            forward = torch.compile(forward)
        vars(block)["forward"] = forward  # stands before the class's own method
    try:
        yield
    finally:
        for block in blocks:
            del vars(block)["forward"]


def _recomputed(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(*arguments: Any, **named: Any) -> Tensor:
        return checkpoint(forward, *arguments, use_reentrant=False, **named)

    return run
