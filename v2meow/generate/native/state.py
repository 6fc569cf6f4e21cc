"""The state whose step is compiled: what `State` computes, on CPUs."""

from contextlib import nullcontext

import torch
from torch import Tensor

from v2meow.config import SamplingConfig
from v2meow.generate.linear import Precision
from v2meow.generate.native.compiling import told_if_slow
from v2meow.generate.native.dots import FLOAT32, INT5, INT8, OUTS, STRIDES
from v2meow.generate.native.products import whole_groups
from v2meow.generate.native.step import Plan, meetings, step
from v2meow.generate.native.team import Pace, counters, team
from v2meow.generate.native.vectors import LANES
from v2meow.generate.native.weights import Matrices, padded
from v2meow.generate.pages import Span, give_back_free_pages, use_huge_pages
from v2meow.generate.state import Extent, State
from v2meow.model.lm import TokenLM


class NativeState(State):
    """Each engine has its own; their steps take turns."""

    def __init__(self, model: TokenLM, config: SamplingConfig, precision: Precision, rows: int, seconds: float) -> None:
        super().__init__(model, config, precision, rows, seconds)
        self._matrices, self._team = Matrices(model), team(torch.get_num_threads())
        spec, decoder = model.spec, self.decoder
        arrays = self._buffers() | {
            "weights": self._matrices.addresses,
            "begins": self._matrices.begins(self._team.size),
            "scales": self._matrices.scales,
            "offsets": self._matrices.offsets,
            "qkv_bias": torch.stack([block.attention.qkv.bias for block in model.blocks]),  # type: ignore
            "query_bias": _query_biases(model),
            "table": decoder.table,
            "cos": decoder.angles[:, 0, 0, 0, 0].contiguous(),
            "sin": decoder.angles[:, 1, 0, 0, 0].contiguous(),
            "cache": decoder.all_cache.view(torch.uint16),
            "memory": decoder.all_memory.view(torch.uint16),
            **{name: getattr(self, name) for name in ("sequence", "numbers", "step", "offset", "owner", "heard")},
            "copies": self.copies,
            "shares_of_copies": self.weights,
        }
        self.logits = arrays["logits"]
        plan = Plan(
            kind=self._matrices.kind,
            feed_kind=self._matrices.feed_kind,
            heads=spec.heads,
            cross=bool(spec.encoder_layers),
            halves=decoder.all_cache.dtype == torch.float16,
            temperature=float(config.temperature),
            top_k=config.top_k,
            top_p=float(config.top_p),
            **{name: tensor.detach().numpy() for name, tensor in arrays.items()},
        )
        self._plan, self._met, self._meetings = tuple(plan), 0, meetings(plan)
        self._arrived, self._pace = plan.arrived, Pace()
        give_back_free_pages()  # the weights as they came
        read = (self._matrices.buffer, decoder.table, decoder.all_cache, decoder.all_memory)
        use_huge_pages(Span(part.data_ptr(), part.data_ptr() + part.nbytes) for part in read)

    def _buffers(self) -> dict[str, Tensor]:
        spec, rows, threads = self.decoder.model.spec, whole_groups(self.rows), self._team.size
        wide, head = padded(spec.width), self.decoder.all_cache.shape[-1]
        most = max(self.decoder.all_cache.shape[-2], self.decoder.all_memory.shape[-2])
        kind = self._matrices.feed_kind
        widest = padded(max(spec.width, spec.feed_forward), STRIDES[INT5 if kind == INT5 else INT8])
        unpacked = {FLOAT32: 0, INT8: 0, INT5: 1}.get(kind, 4)  # bytes
        return {
            "arrived": torch.from_numpy(counters()),
            "x": torch.zeros(rows, wide),
            "normed": torch.zeros(threads, rows, wide),
            "qkv": torch.zeros(rows, padded(3 * spec.width)),
            "mixed": torch.zeros(rows, wide),
            "wide": torch.zeros(rows, padded(spec.feed_forward)),
            "narrow": torch.zeros(rows, wide),
            "shares": torch.zeros(threads, most),
            "sums": torch.zeros(threads, rows * OUTS * LANES),
            "rounded": torch.zeros(threads, rows * widest, dtype=torch.uint8),
            "row_scales": torch.zeros(threads, rows),
            "unpacked": torch.zeros(threads, OUTS * widest * unpacked, dtype=torch.int8),
            "turned": torch.zeros(threads, 2, head),
            "highest": torch.zeros(threads, LANES),
            "mixing": torch.zeros(threads, head),
            "logits": torch.zeros(rows, padded(spec.target.levels * spec.target.bins)),
            "guided": torch.zeros(threads, spec.target.bins),
        }

    def run(self, extent: Extent) -> None:
        """One step: the next code of every codebook, for each request."""
        with nullcontext() if step.signatures else told_if_slow():
            self._run(extent)

    def _run(self, extent: Extent) -> None:
        arguments, naps = (self._plan, extent.requests, extent.rows, self._met), int(self._arrived[1])
        if self._team.size > 1 and self._pace.together():
            self._team.run(step, *arguments)
            self._met += self._meetings
            self._pace.tell(waited=int(self._arrived[1]) > naps)
        else:
            step(*arguments, 0, 1)
        self.step[: extent.requests].add_(1).clamp_(max=self.steps - 1)


def _query_biases(model: TokenLM) -> Tensor:
    biases: list[Tensor] = [block.cross.query.bias for block in model.blocks if block.cross]  # type: ignore
    return torch.stack(biases) if biases else torch.zeros(0, 0)
