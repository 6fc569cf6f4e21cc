"""The processes that train one model together: each takes its part of every batch, and all make the same step.

Runs with torch alone: who started the processes, and on how many machines, is not known here. What cuts a model into
parts is imported where one is cut: it takes a second, and all that measures a model's losses comes by here.
"""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed import ProcessGroup
from torch.nn.parallel import DistributedDataParallel

from v2meow.config import Strategy
from v2meow.model.lm import TokenLM
from v2meow.model.transformer import CrossAttention
from v2meow.preempt import Asked, never

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


class Workers:
    """The default process group, or this process alone.

    `ddp` keeps the whole model in every process and averages gradients while they are computed; `fsdp` keeps a part of
    every weight, its gradient and its moments in each (FSDP2), and gathers one block at a time.

    Any of them may be `asked` to stop. They have to stop after the same step, so they agree on it whenever they
    exchange figures.
    """

    def __init__(self, strategy: Strategy = "ddp", asked: Asked = never) -> None:
        self.strategy: Strategy = strategy
        self._asked, self._agreed = asked, False
        together = dist.is_available() and dist.is_initialized()
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)

    def place(self, model: TokenLM) -> None:
        """Cut the model into parts, in place, where the strategy asks for it: before there is an optimizer."""
        if self._cuts:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            # Said at every call, of views that nobody changes in place.
            warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)
            # The memory is projected for all blocks before the first of them runs and gathers its weights.
            projections = [part.key_value for part in model.modules() if isinstance(part, CrossAttention)]
            # Left to itself, FSDP takes the GPUs of a machine that has any.
            mesh = init_device_mesh(model.norm.weight.device.type, (self.size,))
            for part in (*projections, *model.encoder, *model.blocks, model):
                fully_shard(part, mesh=mesh)

    def joined(self, model: TokenLM) -> nn.Module:
        """What to call instead of `model`, so that gradients of all processes are averaged."""
        if self.size == 1 or self.strategy == "fsdp":
            return model
        warnings.filterwarnings("ignore", "find_unused_parameters=True was specified", UserWarning)
        devices = [model.norm.weight.device] if model.norm.weight.is_cuda else None
        return DistributedDataParallel(
            model,
            device_ids=devices,
            gradient_as_bucket_view=True,
            # Nothing is unused, but without this, buckets are made anew after the first step. Sums of three workers
            # and more depend on that in their last bit, and training that goes on has another first step.
            find_unused_parameters=True,
        )

    @contextmanager
    def exchange(self, joined: nn.Module, *, now: bool) -> Iterator[None]:
        """Inside the block, backward passes average gradients `now`, or leave them for a later one."""
        if now or self.size == 1:
            yield
        elif isinstance(joined, DistributedDataParallel):
            with joined.no_sync():
                yield
        else:
            from torch.distributed.fsdp import FSDPModule

            assert isinstance(joined, FSDPModule)
            joined.set_requires_gradient_sync(False)
            yield
            joined.set_requires_gradient_sync(True)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of `values` [N] over all processes, on the CPU. On the way they agree on `stopping`."""
        if self.size == 1:
            return values.cpu()
        told = torch.cat((values, values.new_tensor([float(self._asked())])))
        dist.all_reduce(told)
        told = told.cpu()
        self._agreed = told[-1].item() > 0
        return told[:-1] / self.size

    @property
    def stopping(self) -> bool:
        """Whether one of them was asked to stop, as far as all of them know."""
        return self._agreed if self.size > 1 else self._asked()

    def all_of(self, said: str | None) -> list[str]:
        """What the workers have to say, by their rank; nothing where none has."""
        if self.size == 1:
            return [] if said is None else [said]
        everyone: list[str | None] = [None] * self.size
        dist.all_gather_object(everyone, said)
        return [f"worker {rank}: {line}" for rank, line in enumerate(everyone) if line is not None]

    def beside(self) -> ProcessGroup | None:
        """Another group of all workers, on CPUs, for a thread that works beside training. All of them must ask."""
        if self.size == 1:
            return None
        group = dist.new_group(backend="gloo")
        assert isinstance(group, ProcessGroup), group  # a number is what processes get that are no part of it
        return group

    def settle(self, model: nn.Module) -> None:
        """Take the model apart again after a forward pass without a backward one, which would have done it."""
        if self._cuts:
            from torch.distributed.fsdp import FSDPModule

            assert isinstance(model, FSDPModule)
            model.reshard()

    @property
    def _cuts(self) -> bool:
        return self.strategy == "fsdp" and self.size > 1


def is_cut(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Whether this process holds but a part of the tensor."""
    imported = sys.modules.get("torch.distributed.tensor")
    return imported is not None and isinstance(tensor, imported.DTensor)


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, put together where processes hold parts of it: all of them must ask."""
    return tensor.full_tensor() if is_cut(tensor) else tensor
