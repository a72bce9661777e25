"""FP8 copies of weights: made once, and again after a change."""

from __future__ import annotations

import torch
from torch import nn

from ling.model.layers import Linear
from ling.train.fp8.backend import choose
from ling.train.fp8.layers import Fp8Linear
from ling.train.fp8.weights import KeptWeight, renew


def test_a_copy_is_kept_until_a_parameter_changes():
    kept, p = KeptWeight("power-of-two"), nn.Parameter(torch.randn(16, 32))
    first = kept.of(p)
    assert kept.of(p) is first
    with torch.no_grad():
        p.mul_(2)
    second = kept.of(p)
    assert second is not first
    assert torch.equal(second.widened(), 2 * first.widened())


def test_renew_makes_copies_again_after_a_change_that_autograd_does_not_see():
    layer = Fp8Linear(Linear(32, 16, bias=False), choose("power-of-two"))
    x = torch.randn(4, 32).bfloat16()
    before = layer(x)
    layer.weight.detach().numpy()[:] = 0
    assert torch.equal(layer(x), before)
    renew(nn.ModuleList([layer]))
    assert not layer(x).any()


def test_parts_are_quantised_one_below_the_other():
    gate, up = torch.randn(2, 2, 64, 128)
    both = KeptWeight("power-of-two").of(gate, up)
    assert both.codes.shape == (2, 128, 128)
    assert both.inverse.shape == (2, 1, 1)
