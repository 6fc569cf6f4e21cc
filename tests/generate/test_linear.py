"""Packed linear layers compute what nn.Linear computes, as nearly as their precision allows, row by row."""

from copy import deepcopy

import pytest
import tiny
import torch
from torch import nn

from v2meow.config import STAGES
from v2meow.generate.linear import Int8Linear, pack

# Relative errors of one layer on random data; float32 differs in the order of sums only.
TOLERANCES = {"float32": 1e-6, "bfloat16": 6e-3, "int8": 2.5e-2}


def _packed(linear: nn.Linear, precision) -> nn.Module:
    module = nn.Sequential(deepcopy(linear))
    pack(module, precision)
    return module


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 16, 70])
@pytest.mark.parametrize("precision", TOLERANCES)
def test_a_packed_layer_is_the_plain_layer_within_its_precision(precision, rows, bias):
    torch.manual_seed(0)
    linear, x = nn.Linear(96, 160, bias=bias), torch.randn(rows, 1, 96)
    with torch.inference_mode():
        expected, found = linear(x), _packed(linear, precision)(x)
    assert found.shape == expected.shape and found.dtype == torch.float32
    assert (found - expected).norm() / expected.norm() < TOLERANCES[precision]


@pytest.mark.parametrize("precision", TOLERANCES)
def test_a_row_does_not_depend_on_its_company(precision):
    """Quantized with its neighbours, a request would give other music in other company."""
    torch.manual_seed(0)
    layer, x = _packed(nn.Linear(64, 128), precision), torch.randn(5, 64)
    x[3] *= 100  # a loud neighbour
    with torch.inference_mode():
        together = layer(x)
        for row in range(5):
            torch.testing.assert_close(layer(x[row : row + 1])[0], together[row], rtol=1e-5, atol=1e-5)


def test_int8_keeps_a_row_of_zeros_and_small_rows():
    """A scale of zero would be a division by zero; small activations must not vanish beside large ones."""
    torch.manual_seed(0)
    linear = nn.Linear(64, 128, bias=False)
    x = torch.randn(3, 64) * torch.tensor([[0.0], [1e-6], [1.0]])
    with torch.inference_mode():
        expected, found = linear(x), Int8Linear(linear)(x)
    assert torch.equal(found[0], torch.zeros(128))
    assert (found[1] - expected[1]).norm() / expected[1].norm() < TOLERANCES["int8"]


@pytest.mark.parametrize(("precision", "agreement"), [("float32", 1.0), ("bfloat16", 0.9), ("int8", 0.8)])
@pytest.mark.parametrize("stage", STAGES)
def test_a_packed_stage_has_the_favourites_of_the_plain_one(stage, precision, agreement):
    """Random weights have many near ties, trained ones few; a wrong layer agrees on one code of sixteen."""
    plain = tiny.model(stage)
    codes, given = tiny.inputs(plain, 4, 1.0)
    packed = deepcopy(plain)
    pack(packed, precision)
    assert not any(isinstance(module, nn.Linear) for module in packed.modules())
    with torch.inference_mode():
        expected, found = plain(codes, given), packed(codes, given)
    assert (expected.argmax(-1) == found.argmax(-1)).float().mean() >= agreement
    if precision == "float32":
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_plain_weights_are_let_go():
    """Kept beside the packed ones they would double the memory."""
    model = tiny.model("coarse")
    pack(model, "bfloat16")
    kept = {name.split(".")[-2] for name, _ in model.named_parameters() if "." in name}
    assert not kept & {"qkv", "out", "query", "key_value", "head"}
