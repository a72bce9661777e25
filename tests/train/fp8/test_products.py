"""FP8 products and their gradients against float64 formulas of quantised values."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from ling.ops import fp8_tiles as tiles
from ling.train.fp8.backend import choose
from ling.train.fp8.products import Linear, SwiGLU
from ling.train.fp8.weights import quantised

SCALES = ("power-of-two", "float32")


def rows64(x, scales):
    return tiles.dequantise_rows(*tiles.quantise_rows(x, scales)).double()


def columns64(x, scales):
    return tiles.dequantise_columns(*tiles.quantise_columns(x, scales)).double()


def blocks64(w, scales):
    return tiles.dequantise_blocks(*tiles.quantise_blocks(w, scales)).double()


def close(found, wanted):
    """To half a step of bfloat16, and float32 sums."""
    wanted = wanted.detach()
    torch.testing.assert_close(found.double(), wanted, rtol=2**-8, atol=1e-4 * wanted.abs().max())


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize(("M", "K", "N"), [(200, 144, 272), (16, 256, 128)])
def test_a_linear_map_and_its_gradients_are_products_of_quantised_values(normal, M, K, N, scales):
    x, w, dy = normal(M, K).requires_grad_(), normal(N, K).float().requires_grad_(), normal(M, N)
    y = Linear.apply(x, w, quantised((w,), scales), choose(scales))
    y.backward(dy)
    close(y.detach(), rows64(x, scales) @ blocks64(w, scales).t())
    close(x.grad, rows64(dy, scales) @ blocks64(w, scales))
    close(w.grad, columns64(dy, scales).t() @ columns64(x, scales))
    assert (y.dtype, x.grad.dtype, w.grad.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    assert w.grad.stride() == w.stride()


@pytest.mark.parametrize("scales", SCALES)
def test_experts_are_linear_maps_of_their_own_rows(normal, scales):
    E, D, F, groups = 4, 144, 128, [0, 144, 144, 160, 304]
    x, dy = normal(304, D).requires_grad_(), normal(304, D)
    parts = [normal(E, *s, scale=0.1).float() for s in ((F, D), (F, D), (D, F))]
    gate, up, down = (p.requires_grad_() for p in parts)
    weights = quantised((gate, up), scales), quantised((down,), scales)
    products = choose(scales)
    y = SwiGLU.apply(x, groups, gate, up, down, *weights, products)
    y.backward(dy)
    for e, (a, b) in enumerate(pairwise(groups)):
        own = x.detach()[a:b].requires_grad_()
        both = torch.cat((gate[e], up[e])).detach().requires_grad_()
        last = down[e].detach().requires_grad_()
        gu = Linear.apply(own, both, quantised((both,), scales), products)
        g, u = gu.chunk(2, dim=1)
        h = torch.nn.functional.silu(g) * u
        alone = Linear.apply(h, last, quantised((last,), scales), products)
        alone.backward(dy[a:b])
        torch.testing.assert_close(y[a:b], alone, rtol=0.02, atol=0.02)
        assert_near(x.grad[a:b], own.grad)
        assert_near(torch.cat((gate.grad[e], up.grad[e])), both.grad)
        assert_near(down.grad[e], last.grad)


def assert_near(found, wanted):
    """Autograd rounds SwiGLU's gradient at other places: what may differ are single FP8 steps."""
    if wanted is None or not wanted.numel():
        return
    found, wanted = found.double(), wanted.double()
    assert (found - wanted).norm() <= 0.02 * wanted.norm()


def test_no_rows_at_all_give_gradients_of_zero(normal):
    w = normal(128, 144).float().requires_grad_()
    x = torch.zeros(0, 144, dtype=torch.bfloat16, requires_grad=True)
    y = Linear.apply(x, w, quantised((w,), "power-of-two"), choose("power-of-two"))
    y.backward(torch.zeros_like(y))
    assert y.shape == (0, 128)
    assert not w.grad.any()
