"""Layers with rounded weights compute what nn.Linear computes, as nearly as their precision allows, row by row."""

from copy import deepcopy

import pytest
import tiny
import torch
from torch import nn

from v2meow.config import STAGES
from v2meow.generate.linear import RoundedLinear, integer_products, lower, round_rows, rounded

TOLERANCES = {
    "float32": 1e-6,
    "float16": 5e-4,
    "bfloat16": 6e-3,
    "int8": 1e-2,
    "int5": 5e-2,
}  # relative errors of one layer on random data


def _lowered(linear: nn.Linear, precision) -> nn.Module:
    module = nn.ModuleDict({"feed": nn.Sequential(deepcopy(linear))})
    lower(module, precision)
    return module["feed"]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 16, 70])
@pytest.mark.parametrize("precision", TOLERANCES)
def test_a_layer_is_the_plain_layer_within_its_precision(precision, rows, bias):
    torch.manual_seed(0)
    linear, x = nn.Linear(96, 160, bias=bias), torch.randn(rows, 1, 96)
    with torch.inference_mode():
        expected, found = linear(x), _lowered(linear, precision)(x)
    assert found.shape == expected.shape and found.dtype == torch.float32
    assert (found - expected).norm() / expected.norm() <= TOLERANCES[precision]


@pytest.mark.parametrize("precision", TOLERANCES)
def test_a_row_does_not_depend_on_its_company(precision):
    """A request would give other music in other company."""
    torch.manual_seed(0)
    layer, x = _lowered(nn.Linear(64, 128), precision), torch.randn(5, 64)
    x[3] *= 100  # a loud neighbour
    with torch.inference_mode():
        together = layer(x)
        for row in range(5):
            torch.testing.assert_close(layer(x[row : row + 1])[0], together[row], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("exact", [True, False])
def test_sums_of_bytes_are_exact_with_and_without_int_mm(exact, monkeypatch):
    """Float32 alone would lose the last bits of 2050 products; PyTorch's product of int8 does without VNNI."""
    monkeypatch.setattr("v2meow.generate.linear._int_mm_is_exact", lambda: exact)
    rows, weight = torch.full((3, 2050), 127, dtype=torch.int8), torch.full((5, 2050), 127, dtype=torch.int8)
    rows[1], weight[2, ::2], weight[3, 0] = -127, -126, 126
    assert torch.equal(integer_products(rows, weight).long(), rows.long() @ weight.long().T)


@pytest.mark.parametrize("precision", ["int8", "int5"])
def test_a_row_of_bytes_is_the_same_to_the_last_bit_in_any_company(precision):
    layer, x = _lowered(nn.Linear(64, 128), precision), torch.randn(70, 64)
    together = layer(x)
    assert all(torch.equal(layer(x[row : row + 1])[0], together[row]) for row in range(70))


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_of_bytes_rounds_multiplies_and_scales_row_by_row(bias, compiled, monkeypatch):
    """To the last bit, with Numba and without; each row must meet its own scale, and x must stay as it was."""
    if not compiled:
        monkeypatch.setattr("v2meow.generate.linear.find_spec", lambda _: None)
    layer, x = rounded(nn.Linear(64, 128, bias=bias), "int8"), torch.randn(70, 3, 64).transpose(0, 1)
    assert isinstance(layer, RoundedLinear) and layer.scale is not None
    x[1, 4], x[2, 5] = 0, x[2, 5] * 1000
    before = x.clone()
    rows, scales = round_rows(x)
    sums = integer_products(rows.flatten(0, 1), layer.weight).unflatten(0, (3, 70))
    expected = sums.float() * (scales * layer.scale)
    assert torch.equal(layer(x), expected if layer.bias is None else expected + layer.bias)
    assert torch.equal(x, before)


def test_int8_keeps_outputs_of_zero():
    """A scale of zero would be a division by zero."""
    linear = nn.Linear(64, 2, bias=False)
    with torch.no_grad():
        linear.weight[0] = 0
    found = _lowered(linear, "int8")(torch.ones(1, 64))
    assert found[0, 0] == 0 and torch.isfinite(found).all() and found[0, 1] != 0


@pytest.mark.parametrize(
    ("precision", "agreement"), [("float32", 1.0), ("float16", 0.97), ("bfloat16", 0.9), ("int8", 0.8), ("int5", 0.7)]
)
@pytest.mark.parametrize("stage", STAGES)
def test_a_rounded_stage_has_the_favourites_of_the_plain_one(stage, precision, agreement):
    """Random weights have many near ties, trained ones few; a wrong layer agrees on one code of sixteen."""
    plain = tiny.model(stage)
    codes, given = tiny.inputs(plain, 4, 1.0)
    rounded = deepcopy(plain)
    lower(rounded, precision)
    with torch.inference_mode():
        expected, found = plain(codes, given), rounded(codes, given)
    assert (expected.argmax(-1) == found.argmax(-1)).float().mean() >= agreement


def test_int5_packs_feed_forward_layers_and_no_others():
    """They are two thirds of the weights. The rest would cost more favourites than it saves of memory."""
    model = tiny.model("semantic")
    lower(model, "int5")
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, RoundedLinear)}
    assert {name for name, layer in layers.items() if layer.columns} == {name for name in layers if "feed" in name}


def test_packed_layers_compute_what_their_unpacked_weights_do_to_the_last_bit():
    layer, x = rounded(nn.Linear(96, 160), "int5"), torch.randn(70, 96)
    assert isinstance(layer, RoundedLinear)
    assert torch.equal(layer(x), RoundedLinear(layer.integers(), layer.scale, layer.bias)(x))


def test_the_plain_weights_are_let_go():
    """Kept beside the rounded ones they would double the memory."""
    model = tiny.model("coarse")
    lower(model, "bfloat16")
    kept = {name.split(".")[-2] for name, _ in model.named_parameters() if "." in name}
    assert not kept & {"qkv", "out", "query", "key_value", "head"}
