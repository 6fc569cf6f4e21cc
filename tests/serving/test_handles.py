"""Which way calls take from process to process. That they arrive, test_ray_serve.py sees."""

import asyncio
from typing import Any

import pytest
import torch
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata
from ray.serve._private.constants import RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH

from serving import handles
from serving.editions import Edition
from serving.handles import HandleParts

_EDITION = Edition("0" * 64, "folder", "nano")


class _Codec:
    """A handle of a part that answers with silence, after it was `lost` so many times."""

    def __init__(self, lost: int = 0) -> None:
        self.lost, self.ways = lost, list[bool]()
        self.sound = self

    def options(self, *, _by_reference: bool) -> "_Codec":
        self.ways.append(_by_reference)
        return self

    async def remote(self, _: Edition, codes: torch.Tensor, first: int, end: int) -> torch.Tensor:
        if self.lost:
            self.lost -= 1
            raise AioRpcError(StatusCode.INTERNAL, Metadata(), Metadata(), "the stream was reset")
        return torch.zeros(end - first)


def _sound(codec: Any, frames: int) -> torch.Tensor:
    codes = torch.zeros(8, frames, dtype=torch.int64)
    return asyncio.run(HandleParts({"codec": codec}).sound(_EDITION, codes, 0, frames))


@pytest.mark.parametrize(("frames", "by_reference"), [(250, False), (1 << 16, False), ((1 << 16) + 1, True)])
def test_what_grpc_would_refuse_goes_by_reference(frames, by_reference):
    """An hour of codes is a larger message than it takes."""
    codec = _Codec()
    assert len(_sound(codec, frames)) == frames
    assert codec.ways == [by_reference]
    assert 2 * handles._SMALL < RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH  # with what stands around tensors


def test_a_connection_that_breaks_is_a_process_that_is_lost(monkeypatch):
    """Ray knows one of gRPC's codes as a dead actor; a process that is killed has others, too."""
    monkeypatch.setattr(handles, "_PAUSE_S", 0.01)
    assert len(_sound(_Codec(lost=2), 50)) == 50
