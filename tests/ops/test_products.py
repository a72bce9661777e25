"""Products of bfloat16 in float32 are those of torch, which some processors make one by one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ling.ops import causal, grouped, products


@pytest.fixture(params=[False, True], ids=["native", "widened"])
def widened(request, monkeypatch):
    monkeypatch.setattr(products, "_has_bfloat16", lambda: not request.param)
    return request.param


def whole_numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    """Their products and sums are exact in bfloat16, in whatever order they are added."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-2, 3, shape, generator=generator).bfloat16()


def test_a_product_is_torchs(widened):
    a, b = whole_numbers(5, 16), whole_numbers(16, 7, seed=1)
    want, out = torch.mm(a, b), torch.empty(5, 7, dtype=torch.bfloat16)
    assert products.widens(a) == widened
    assert torch.equal(products.mm(a, b), want)
    assert products.mm(a, b, out=out) is out
    assert torch.equal(out, want)
    assert torch.equal(products.mm(b.t(), a.t()), want.t())


def test_other_types_are_left_to_torch(widened):
    a, b = torch.randn(3, 4), torch.randn(4, 5)
    assert not products.widens(a)
    assert torch.equal(products.mm(a, b), a @ b)
    assert torch.equal(products.linear(a, b.t()), F.linear(a, b.t()))


@pytest.mark.parametrize("shape", [(4, 16), (2, 3, 16)])
def test_a_linear_map_and_its_gradients_are_torchs(widened, shape):
    want = _with_gradients(F.linear, shape)
    got = _with_gradients(products.linear, shape)
    for g, w in zip(got, want, strict=True):
        assert g.dtype == w.dtype
        assert torch.equal(g, w)


def _with_gradients(linear, shape):
    x, w, bias = whole_numbers(*shape), whole_numbers(6, 16, seed=1), whole_numbers(6, seed=2)
    leaves = [t.requires_grad_() for t in (x, w, bias)]
    y = linear(*leaves)
    y.backward(whole_numbers(*y.shape, seed=3))
    return [y.detach(), *(t.grad for t in leaves)]


def test_a_frozen_weight_gets_no_gradient(widened):
    x, w = whole_numbers(4, 16).requires_grad_(), whole_numbers(6, 16, seed=1)
    products.linear(x, w).sum().backward()
    assert x.grad is not None
    assert w.grad is None


def test_a_sum_is_rounded_once(monkeypatch):
    monkeypatch.setattr(products, "_has_bfloat16", lambda: False)
    torch.manual_seed(0)
    a, b = torch.randn(64, 512).bfloat16(), torch.randn(512, 64).bfloat16()
    want = (a.double() @ b.double()).bfloat16()
    # float32 sums that lie between two numbers may fall to either side.
    assert (products.mm(a, b) != want).float().mean() < 0.01


def test_experts_and_attention_widen(monkeypatch):
    x, groups = whole_numbers(9, 16), [0, 4, 4, 9]
    w = whole_numbers(3, 8, 16, seed=1)
    q, k, v = (torch.randn(12, heads, 32).bfloat16() for heads in (4, 2, 2))
    results = []
    for has in (True, False):
        monkeypatch.setattr(products, "_has_bfloat16", lambda has=has: has)
        monkeypatch.setattr(causal.native, "isa", lambda: "avx2")
        results.append(
            [
                grouped.product(x, w, groups),
                grouped.weight_gradient(x, x, groups),
                causal.causal_attention(q, k, v, [0, 5, 12]),
            ]
        )
    for plain, wide in zip(*results, strict=True):
        assert wide.dtype == torch.bfloat16
        torch.testing.assert_close(wide, plain, rtol=2e-2, atol=2e-2)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("ends", [[0, 12, 24], [0, 5, 24]])
def test_attention_has_the_gradients_of_torchs(monkeypatch, ends):
    monkeypatch.setattr(causal.native, "isa", lambda: "avx2")
    results = []
    for has in (True, False):
        monkeypatch.setattr(products, "_has_bfloat16", lambda has=has: has)
        torch.manual_seed(0)
        leaves = [torch.randn(24, heads, 32).bfloat16().requires_grad_() for heads in (4, 2, 2)]
        out = causal.causal_attention(*leaves, ends)
        out.backward(torch.randn_like(out))
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for plain, wide in zip(*results, strict=True):
        assert wide.dtype == torch.bfloat16
        torch.testing.assert_close(wide, plain, rtol=3e-2, atol=3e-2)
