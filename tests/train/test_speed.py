"""The arithmetic of a step is counted as torch counts it, and the device's rate is one that it can reach."""

import pytest
import tiny
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from v2meow.config import STAGES
from v2meow.train.batches import make_batch
from v2meow.train.loop import loss_of
from v2meow.train.speed import gemm_rate, peak_rate, step_flops

CPU = torch.device("cpu")


@pytest.mark.parametrize("stage", STAGES)
def test_the_arithmetic_is_that_which_torch_counts_in_the_forward_pass(stage):
    """A share of the peak from a wrong count looks like a fast or a slow machine."""
    recipe = tiny.recipe()
    model, batch = tiny.model(stage), make_batch(recipe, stage, tiny.examples(recipe, 4), torch.arange(4))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # the CPU's own is not counted
        loss_of(model, batch)
    causal = 3 * len(batch.codes) * 4 * model.spec.width * model.spec.layers * _places(model, batch) ** 2 / 2
    counted = 3 * counter.get_total_flops() - causal  # torch counts the whole square of a causal attention
    assert step_flops(model, batch.codes, batch.conditions) == pytest.approx(counted, rel=0.02)


def _places(model, batch) -> int:
    prefix = batch.conditions.prefix
    return model.layout(batch.codes.shape[2]).steps + (0 if prefix is None else prefix.shape[2])


def test_the_rate_is_measured_without_drawing_from_the_global_random_stream():
    """Training that goes on after a checkpoint would drop other activations than training that never stopped."""
    stream = torch.get_rng_state()
    assert 1e8 < gemm_rate(CPU, torch.float32, seconds=0.02) < 1e14
    assert torch.equal(torch.get_rng_state(), stream)


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA A100-SXM4-40GB", 312e12)],
)
def test_known_devices_have_the_peak_of_their_data_sheet(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_rate(torch.device("cuda"), torch.bfloat16) == peak


def test_an_unknown_device_is_measured(monkeypatch):
    """A share of somebody else's peak would be worse than none."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA GeForce RTX 9999")
    monkeypatch.setattr("v2meow.train.speed.gemm_rate", lambda device, dtype: 123.0)
    assert peak_rate(torch.device("cuda"), torch.bfloat16) == 123.0
    assert peak_rate(CPU, torch.float32) == 123.0
