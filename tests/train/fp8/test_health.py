"""What FP8 loses is measured by kind of tensor and part of the model; and values that overflow."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ling.model.layers import Linear
from ling.train.fp8.backend import choose
from ling.train.fp8.health import Health, Meter, Watched
from ling.train.fp8.layers import Fp8Linear


def watched(scales="power-of-two"):
    meter = Meter(scales)
    layer = Fp8Linear(Linear(128, 64, bias=False), Watched(choose(scales), "attention", meter))
    return layer, Health(nn.ModuleList([layer]), lambda sums: sums)


def test_a_logged_step_tells_underflow_cosine_and_scales():
    layer, health = watched()
    x = torch.ones(16, 128).bfloat16()
    x[:, :32] = 1e-6  # far below the smallest step of a tile whose largest value is 1
    health.watch(True)
    layer(x.requires_grad_()).backward(torch.ones(16, 64).bfloat16())
    found = health.measure()
    kinds = {f"{kind}/attention" for kind in ("activations", "weights", "gradients")}
    assert set(found["fp8_underflow"]) == set(found["fp8_cosine"]) == kinds
    assert found["fp8_underflow"]["activations/attention"] == 0.25
    assert found["fp8_underflow"]["gradients/attention"] == 0
    assert found["fp8_cosine"]["gradients/attention"] == pytest.approx(1)
    assert 0.99 < found["fp8_cosine"]["weights/attention"] < 1
    # 448 rounded down is 2^8.
    assert found["fp8_scales"]["activations/attention"] == {"-8": 1.0}


def test_other_steps_measure_no_activations():
    layer, health = watched()
    health.watch(False)
    layer(torch.ones(16, 128).bfloat16())
    assert set(health.measure()["fp8_underflow"]) == {"weights/attention"}


def test_only_the_step_is_measured():
    """Not the held-out rows behind it, nor a step that could not be finished."""
    layer, health = watched()
    empty, full = torch.zeros(16, 128).bfloat16(), torch.ones(16, 128).bfloat16()
    empty[0, 0], empty[0, 1] = 1, 1e-6
    health.watch(True)
    layer(empty)  # the step
    assert health.measure()["fp8_underflow"]["activations/attention"] == 1 / empty.numel()
    layer(empty)  # held-out rows
    health.watch(True)
    layer(empty)  # a step that failed: the loop goes back, and on
    health.watch(True)
    layer(full)
    assert health.measure()["fp8_underflow"]["activations/attention"] == 0


def test_a_network_without_fp8_has_no_columns():
    health = Health(nn.ModuleList([Linear(4, 4)]), lambda sums: sums)
    health.watch(True)
    assert health.measure() == {}


@pytest.mark.parametrize("scales", ["power-of-two", "float32"])
@pytest.mark.parametrize("value", [0.0, 1e-40, 1e30, float("inf"), float("nan")])
def test_extreme_activations_have_scales_and_results_are_finite_or_show_it(value, scales):
    layer, health = watched(scales)
    x = torch.full((16, 128), value).bfloat16().requires_grad_()
    health.watch(True)
    y = layer(x)
    y.backward(torch.full((16, 64), 1e-3).bfloat16())
    found = health.measure()
    assert sum(found["fp8_scales"]["activations/attention"].values()) == 1
    # NaN reaches loss and gradient, so that the step is left out.
    is_finite = value == value
    assert bool(y.isfinite().all()) == is_finite
    assert bool(layer.weight.grad.isfinite().all()) == is_finite
    assert x.grad.isfinite().all()
