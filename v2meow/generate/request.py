"""What an engine is asked for: one window of one piece for one stage."""

from dataclasses import dataclass

import torch
from torch import Tensor

from v2meow.config import SamplingConfig
from v2meow.generate.guidance import GuidanceRow, guidance_rows
from v2meow.model.lm import Conditions, StageSpec


@dataclass(frozen=True, eq=False)
class Request:
    """`known` [K, T] with UNKNOWN where a code is wanted; `given` has one row; the seed alone decides what is drawn."""

    given: Conditions
    known: Tensor
    seed: int

    def rows(self, spec: StageSpec, config: SamplingConfig) -> list[GuidanceRow]:
        """The copies of this request that guidance needs."""
        return guidance_rows(config, has_video=bool(spec.visual), has_text=self.given.joint is not None)

    def alike(self, other: "Request") -> bool:
        """Whether both have conditions and codes of the same shapes, so that they can be read as one batch."""
        return _shapes(self) == _shapes(other)


def join(requests: list[Request], device: torch.device) -> Conditions:
    """The conditions of requests that are alike, as a batch on `device`."""
    given = [request.given for request in requests]

    def cat(parts: list[Tensor | None]) -> Tensor | None:
        found = [part for part in parts if part is not None]
        return torch.cat(found) if found else None

    visual = tuple(torch.cat(parts) for parts in zip(*(one.visual for one in given), strict=True))
    return Conditions(visual, cat([one.joint for one in given]), cat([one.prefix for one in given])).to(device)


def _shapes(request: Request) -> list[torch.Size | None]:
    given = request.given
    return [None if part is None else part.shape for part in (*given.visual, given.joint, given.prefix, request.known)]
