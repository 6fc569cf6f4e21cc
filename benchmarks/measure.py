"""Measuring fairly: contestants in turns in one process, medians, and what the machine itself can do.

Machines are shared and their clocks change: two runs one after the other differ by more than most improvements.
So contestants take turns, and what is told of two of them is the median of the ratios within each round.
Knows nothing of what is measured.
"""

import json as json_format
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from v2meow.train import speed


def alternate(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant in each of `rounds` rounds, in which all take their turn; one round before is free."""
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            seconds = timed(run)
            if number > 0:  # the first turn pays for allocations and for choosing kernels
                taken[name].append(seconds)
    return taken


def timed(run: Callable[[], object]) -> float:
    """Seconds that `run` takes, the device's own work included."""
    _wait_for_device()
    start = time.perf_counter()
    run()
    _wait_for_device()
    return time.perf_counter() - start


def ratio(taken: dict[str, list[float]], one: str, other: str) -> float:
    """How many times longer `one` takes than `other`: the median of the rounds' own ratios."""
    return median(a / b for a, b in zip(taken[one], taken[other], strict=True))


def device() -> torch.device:
    """Where to measure: the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def read_bandwidth(bytes_read: int = 2**29) -> float:
    """Bytes/s at which a tensor that no cache holds is summed: the floor of decoding is weights over this."""
    tensor = torch.ones(bytes_read // 4, device=device())
    return bytes_read / min(timed(tensor.sum) for _ in range(3))


def gemm_rate(dtype: torch.dtype) -> float:
    """FLOP/s that square matrix products of `dtype` reach here: the floor of training is arithmetic over this."""
    return speed.gemm_rate(device(), dtype)


def machine() -> dict[str, Any]:
    """The line that every figure must stand under."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "bench": "machine",
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def emit(row: dict[str, Any], *, json: bool) -> None:
    """Print one result: an object a line for programs, names and values for people. Numbers to three digits."""
    row = {name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in row.items()}
    if json:
        print(json_format.dumps(row), flush=True)
    else:
        print("  ".join(f"{name} {_plain(value)}" for name, value in row.items()), flush=True)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:g}"
    return "-" if value is None else str(value)


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
