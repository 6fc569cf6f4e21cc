"""How fast training is, and how fast it could be: arithmetic of a step, and the rate that the device reaches.

Legend: B batch, S decoder places (prefix and steps), M memory, D width.
"""

import time

import torch
from torch import Tensor, nn

from v2meow.model.lm import Conditions, TokenLM
from v2meow.model.transformer import CrossAttention

# Dense bfloat16 FLOP/s from the makers' data sheets, by a part of the device's name; the first that fits counts.
_BFLOAT16_PEAKS = {
    "B200": 2250e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
}


def step_flops(model: TokenLM, codes: Tensor, given: Conditions) -> float:
    """Floating-point operations of one training step on codes [B, K, T].

    3 (forward, and twice that backward) times 2 for every weight that multiplies a place, plus attention, of
    which a causal one needs half. Recomputed activations do not count: they are a cost, not work.
    """
    spec, steps = model.spec, model.layout(codes.shape[2]).steps
    pictures = sum(features.shape[1] for features in given.visual)
    memory = pictures + 1 if spec.encoder_layers else 0
    prefix = 0 if given.prefix is None else given.prefix.shape[2] + pictures
    remembering = _weights(*(part.key_value for part in model.modules() if isinstance(part, CrossAttention)))
    multiplied = (_weights(model.blocks) - remembering) * (prefix + steps) + _weights(model.head) * steps
    multiplied += (_weights(model.encoder) + remembering) * memory
    multiplied += sum(spec.width * features.shape[1] * features.shape[2] for features in given.visual)
    looks = spec.layers * (prefix + steps) ** 2 / (2 if model.causal else 1) + spec.encoder_layers * memory**2
    looks += spec.layers * (prefix + steps) * memory
    return 3 * len(codes) * (2 * multiplied + 4 * spec.width * looks)


def peak_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s that matrix products of `dtype` can reach on `device`: from a table, else measured."""
    if device.type == "cuda" and dtype == torch.bfloat16:
        name = torch.cuda.get_device_name(device)
        for part, peak in _BFLOAT16_PEAKS.items():
            if part in name:
                return peak
    return gemm_rate(device, dtype)


def gemm_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.2) -> float:
    """FLOP/s of the fastest of the square matrix products that fit into about `seconds`.

    The global random streams stay untouched: training that goes on would draw other numbers.
    """
    size = 4096 if device.type == "cuda" else 1024
    random = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(size, size, device=device, generator=random).to(dtype) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def gpu_gib(device: torch.device) -> float | None:
    """The most memory of a GPU that this process's tensors have taken so far, in GiB; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None


def _weights(*modules: nn.Module) -> int:
    """Number of weights of all linear layers within."""
    linear = (part for module in modules for part in module.modules() if isinstance(part, nn.Linear))
    return sum(part.weight.numel() for part in linear)
