"""Emulated products: experts on rows of `groups`, in both forms of groups."""

from __future__ import annotations

import pytest
import torch

from ling.train.fp8.emulation import RoundedProducts, ScaledProducts, borders
from ling.train.fp8.weights import quantised


def test_borders_are_the_same_from_ends_on_a_device():
    assert borders(torch.tensor([3, 3, 8], dtype=torch.int32)) == borders([0, 3, 3, 8])


@pytest.mark.parametrize("products", [RoundedProducts(), ScaledProducts()])
def test_an_expert_without_rows_has_no_gradient_and_the_others_their_own(normal, products):
    groups, x, dy = [0, 0, 130, 300], normal(300, 48), normal(300, 32)
    w = quantised((normal(3, 32, 48),), products.scales)
    y, dx = products.grouped(x, w, groups), products.grouped_dgrad(dy, w, groups)
    dw = products.grouped_wgrad(dy, x, groups)
    assert not dw[0].any()
    for e, rows in ((1, slice(0, 130)), (2, slice(130, 300))):
        alone = type(w)(w.codes[e], w.inverse[e])
        assert torch.equal(y[rows], products.linear(x[rows], alone))
        assert torch.equal(dx[rows], products.linear_dgrad(dy[rows], alone))
        assert torch.equal(dw[e], products.linear_wgrad(dy[rows], x[rows]))


def test_scales_of_both_kinds_give_nearly_the_same(normal):
    x, w = normal(64, 256), normal(128, 256)
    found = [p.linear(x, quantised((w,), p.scales)) for p in (RoundedProducts(), ScaledProducts())]
    exact = x.double() @ w.double().t()
    for y in found:
        assert (y.double() - exact).norm() < 0.04 * exact.norm()
