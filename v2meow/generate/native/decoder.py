"""The decoder whose step is compiled: what `Decoder` computes, on CPUs."""

import torch
from torch import Tensor

from v2meow.generate.decoder import Decoder, Place
from v2meow.generate.linear import Precision
from v2meow.generate.native.step import Plan, meetings, step
from v2meow.generate.native.team import team
from v2meow.generate.native.weights import Matrices, padded
from v2meow.generate.pages import Span, use_huge_pages
from v2meow.model.lm import TokenLM


class NativeDecoder(Decoder):
    """Takes a stage's model over; each engine has its own, and their steps take turns."""

    def __init__(
        self, model: TokenLM, precision: Precision, *, rows: int, steps: int, places: int, memory: int
    ) -> None:
        super().__init__(model, precision, rows=rows, steps=steps, places=places, memory=memory)
        spec, self._matrices, self._team = model.spec, Matrices(model), team(torch.get_num_threads())
        wide, threads = padded(spec.width), self._team.size
        buffers = {
            "arrived": torch.zeros(1, dtype=torch.int64),
            "x": torch.zeros(rows, wide),
            "normed": torch.zeros(threads, rows, wide),
            "qkv": torch.zeros(rows, padded(3 * spec.width)),
            "mixed": torch.zeros(rows, wide),
            "wide": torch.zeros(rows, padded(spec.feed_forward)),
            "narrow": torch.zeros(rows, wide),
            "shares": torch.zeros(threads, max(places, memory)),
            "query": torch.zeros(threads, model.head_width),
            "logits": torch.zeros(rows, padded(spec.target.levels * spec.target.bins)),
        }
        cos, sin = self._angles[:, :, 0, 0, 0].unbind(1)
        shared = {
            "weights": self._matrices.addresses,
            "scales": self._matrices.scales,
            "qkv_bias": torch.stack([block.attention.qkv.bias for block in model.blocks]),  # type: ignore
            "query_bias": torch.stack([block.cross.query.bias for block in model.blocks])  # type: ignore
            if spec.encoder_layers
            else torch.zeros(0, 0),
            "table": self._table,
            "cos": cos.contiguous(),
            "sin": sin.contiguous(),
            "cache": self.all_cache,
            "memory": self.all_memory,
        }
        self._logits = buffers["logits"]
        arrays = {name: tensor.detach().numpy() for name, tensor in (shared | buffers).items()}
        self._plan = Plan(kind=self._matrices.kind, heads=spec.heads, cross=bool(spec.encoder_layers), **arrays)
        self._met, self._meetings = 0, meetings(self._plan)
        read = (self._matrices.buffer, self._table, self.all_cache, self.all_memory)
        use_huge_pages(Span(part.data_ptr(), part.data_ptr() + part.nbytes) for part in read)

    def step(self, inputs: Tensor, here: Place) -> Tensor:
        """Logits float32 [n, K, bins] of the codes after inputs [n, K]; overwritten by the next step."""
        given = (part.numpy() for part in (inputs, here.at, here.place, here.heard))
        self._team.run(step, self._plan, *given, self._met)
        self._met += self._meetings
        levels, bins = self.model.spec.target.levels, self.model.spec.target.bins
        return self._logits[: len(inputs), : levels * bins].view(-1, levels, bins)
