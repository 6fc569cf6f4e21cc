"""The schedule is a pure function of the step, and decay spares what must not shrink."""

from itertools import pairwise

import pytest
import tiny

from v2meow.train.optim import make_optimizer, rate_at, set_rate


def test_the_rate_rises_to_its_peak_and_falls_to_a_tenth():
    rates = [rate_at(step, peak=2.0, warmup=10, total=1000) for step in range(1000)]
    assert rates[0] == pytest.approx(0.2)  # a first step at rate nought would be wasted
    assert rates[9] == rates[10] == max(rates) == 2.0
    assert all(earlier < later for earlier, later in pairwise(rates[:10]))
    assert all(earlier > later for earlier, later in pairwise(rates[10:]))
    assert rates[505] == pytest.approx(1.1, abs=0.01)  # half way between peak and end
    assert rates[-1] == pytest.approx(0.2, rel=1e-3)


def test_training_shorter_than_its_warm_up_still_has_rates():
    """A demo of few steps must not divide by zero."""
    assert [rate_at(step, peak=1.0, warmup=4, total=2) for step in range(2)] == [0.25, 0.5]
    assert rate_at(0, peak=1.0, warmup=0, total=1) == 1.0


def test_every_parameter_is_trained_once_and_only_matrices_decay():
    """Decayed norms and biases shrink a model that has nothing to unlearn."""
    model = tiny.model("semantic")
    optimizer = make_optimizer(model, 1e-3, 0.1)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(trained) == len({id(parameter) for parameter in trained}) == len(list(model.parameters()))
    for group in optimizer.param_groups:
        assert all((parameter.ndim >= 2) == (group["weight_decay"] == 0.1) for parameter in group["params"])
    set_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]
