"""Decoding steps as CUDA graphs: one launch a step instead of hundreds.

A step of 24 layers launches about 400 kernels of a few microseconds each; launched one by one, the host is what
takes the time. Graphs are captured for rounded-up extents, so that a few dozen serve every batch: what a graph
computes beyond the rows and requests in use lands in places that nobody reads.
"""

from dataclasses import replace

import torch

from v2meow.generate.state import Extent, State

_SPAN = 128  # places that spans are rounded up to
_WARM_UPS = 2  # runs before a capture, in which libraries allocate their workspaces


class Graphs:
    """Runs steps of `state` by replaying the graph of the rounded-up extent, captured when first needed."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._graphs: dict[Extent, torch.cuda.CUDAGraph] = {}

    def __call__(self, extent: Extent) -> None:
        rounded = round_up(extent, self._state.rows, self._state.capacity)
        if rounded not in self._graphs:
            self._graphs[rounded] = self._capture(rounded)
        self._graphs[rounded].replay()

    def _capture(self, extent: Extent) -> torch.cuda.CUDAGraph:
        """Capturing needs runs that do happen: what they changed is put back. Keys and values are written again."""
        state = self._state
        before = state.sequence.clone(), state.step.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                state.run(extent)
                state.sequence.copy_(before[0])
                state.step.copy_(before[1])
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            state.run(extent)
        return graph


def round_up(extent: Extent, rows: int, capacity: int) -> Extent:
    """The extent whose graph serves `extent`: powers of two of rows and requests, multiples of _SPAN places."""
    return replace(
        extent,
        requests=min(rows, _power_of_two(extent.requests)),
        rows=min(rows, _power_of_two(extent.rows)),
        span=min(capacity, -(-extent.span // _SPAN) * _SPAN),
        level=False,
    )


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
