"""The oracle of the faster operations, against float64 formulas in plain Python."""

from __future__ import annotations

import math

import pytest
import torch

from ling.ops import reference


def test_norm_casts_before_it_scales():
    x, w = 10 * torch.randn(4, 3, 16), torch.rand(16) + 0.5
    want = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt()
    got = reference.rms_norm(x, w, 1e-6)
    torch.testing.assert_close(got.double(), want * w.double(), rtol=1e-5, atol=1e-6)
    half = x.bfloat16()
    h = half.float() * torch.rsqrt(half.float().square().mean(-1, keepdim=True) + 1e-6)
    assert torch.equal(reference.rms_norm(half, w, 1e-6), h.bfloat16() * w.bfloat16())
    # eps is inside of the root: a row of zeros stays zero, a tiny one is not blown up.
    assert (reference.rms_norm(torch.zeros(1, 16), w, 1e-6) == 0).all()
    assert reference.rms_norm(torch.full((1, 16), 1e-6), torch.ones(16), 1e-6).max() < 0.01


def test_rotation_is_a_product_of_complex_numbers():
    T, H, K, R = 5, 3, 16, 8
    x, angles = torch.randn(T, H, K), torch.rand(T, R // 2) * 2 * math.pi
    cos, sin = (torch.cat((f(angles),) * 2, -1) for f in (torch.cos, torch.sin))
    got = reference.rotate(x, cos, sin)
    pairs = torch.complex(x[..., : R // 2].double(), x[..., R // 2 : R].double())
    turned = pairs * torch.polar(torch.ones(T, R // 2).double(), angles.double())[:, None]
    want = torch.cat((turned.real, turned.imag, x[..., R:].double()), -1)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6)
    assert torch.equal(got[..., R:], x[..., R:])


def test_linear_is_in_the_dtype_of_its_input():
    x, w, b = torch.randn(3, 8), torch.randn(4, 8), torch.randn(4)
    torch.testing.assert_close(reference.linear(x, w, b), (x.double() @ w.double().T + b).float())
    assert torch.equal(
        reference.linear(x.bfloat16(), w),
        torch.nn.functional.linear(x.bfloat16(), w.bfloat16()),
    )


def test_equal_scores_go_to_the_lowest_ids():
    scores = torch.tensor([[1.0, 3.0, 3.0, 0.0, 3.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    assert reference.top_k_lowest_id(scores, 3).tolist() == [[1, 2, 4], [0, 1, 2]]


def route_by_formula(logits, bias, A, n_group, topk_group, scale, norm):
    scores = [1 / (1 + math.exp(-x)) for x in logits.double().tolist()]
    biased = [s + b for s, b in zip(scores, bias.tolist(), strict=True)]
    size = len(scores) // n_group
    worth = [sum(sorted(biased[g * size : (g + 1) * size])[-2:]) for g in range(n_group)]
    kept = sorted(range(n_group), key=lambda g: -worth[g])[:topk_group]
    allowed = [e for e in range(len(scores)) if e // size in kept]
    ids = sorted(allowed, key=lambda e: -biased[e])[:A]
    total = sum(scores[e] for e in ids) if norm and A > 1 else 1
    return ids, [scale * scores[e] / total for e in ids]


@pytest.mark.parametrize(
    ("A", "n_group", "topk_group", "norm"),
    [(4, 4, 2, True), (4, 1, 1, True), (1, 4, 1, True), (3, 2, 2, False)],
)
def test_routing_is_that_of_one_token_after_the_other(A, n_group, topk_group, norm):
    logits, bias = 2 * torch.randn(20, 16), 0.3 * torch.randn(16)
    ids, weights = reference.route(
        logits,
        bias,
        num_experts_per_tok=A,
        n_group=n_group,
        topk_group=topk_group,
        routed_scaling_factor=2.5,
        norm_topk_prob=norm,
    )
    for t in range(20):
        want_ids, want = route_by_formula(logits[t], bias, A, n_group, topk_group, 2.5, norm)
        assert ids[t].tolist() == want_ids
        assert weights[t].tolist() == pytest.approx(want, rel=1e-5)


def test_weights_have_a_gradient_and_the_choice_has_none():
    logits, bias = torch.randn(5, 8, requires_grad=True), torch.zeros(8, requires_grad=True)
    ids, weights = reference.route(
        logits,
        bias,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        routed_scaling_factor=1.0,
        norm_topk_prob=False,
    )
    (grad,) = torch.autograd.grad(weights.sum(), logits)
    s = logits.detach().sigmoid()
    want = torch.zeros_like(s).scatter(1, ids, (s * (1 - s)).gather(1, ids))
    torch.testing.assert_close(grad, want)


def test_router_never_picks_from_dropped_groups_even_with_negative_scores():
    logits = torch.full((1, 8), -4.0)
    bias = torch.full((8,), -1.0)
    bias[:4] -= 0.5
    ids, weights = reference.route(
        logits, bias, num_experts_per_tok=4, n_group=2, topk_group=1, routed_scaling_factor=2.5
    )
    assert ids.tolist() == [[4, 5, 6, 7]]
    assert weights.sum().item() == pytest.approx(2.5)


def test_router_ties_go_to_the_lowest_id():
    ids, _ = reference.route(
        torch.zeros(3, 16),
        torch.zeros(16),
        num_experts_per_tok=4,
        n_group=4,
        topk_group=2,
        routed_scaling_factor=1.0,
    )
    assert ids.tolist() == [[0, 1, 2, 3]] * 3


def swiglu_by_formula(x, gate, up, down):
    g, u = gate.double() @ x, up.double() @ x
    return down.double() @ (g / (1 + (-g).exp()) * u)


def test_experts_are_weighed_sums_of_their_mlps():
    E, F, D, T, A = 6, 5, 8, 9, 3
    gate, up, down = torch.randn(E, F, D), torch.randn(E, F, D), torch.randn(E, D, F)
    x, w = torch.randn(T, D), torch.rand(T, A)
    ids = torch.rand(T, E).topk(A).indices
    want = torch.stack(
        [
            sum(
                w[t, a] * swiglu_by_formula(x[t].double(), gate[e], up[e], down[e])
                for a, e in enumerate(ids[t].tolist())
            )
            for t in range(T)
        ]
    )
    got = reference.moe(x, ids, w, gate, up, down)
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)
    one = reference.swiglu(x, gate[0], up[0], down[0])
    alone = torch.stack([swiglu_by_formula(row, gate[0], up[0], down[0]) for row in x.double()])
    torch.testing.assert_close(one.double(), alone, rtol=1e-4, atol=1e-4)
    # bfloat16: expert outputs are rounded, their sum is not, until the end.
    y = [
        reference.swiglu(x.bfloat16(), gate[e], up[e], down[e]).float()[t]
        for t in range(T)
        for e in ids[t].tolist()
    ]
    sums = (torch.stack(y).view(T, A, D) * w[..., None]).sum(1)
    assert torch.equal(reference.moe(x.bfloat16(), ids, w, gate, up, down), sums.bfloat16())


def test_attention_is_causal_and_shares_keys_between_heads():
    q, k, v = (torch.randn(7, heads, 8) for heads in (4, 2, 2))
    got = reference.causal_attention(q, k, v)
    for t in range(7):
        for h in range(4):
            keys, values = (x[: t + 1, h // 2].double() for x in (k, v))
            p = (keys @ q[t, h].double() / 8**0.5).exp()
            want = (p[:, None] * values).sum(0) / p.sum()
            torch.testing.assert_close(got[t, h].double(), want, rtol=1e-5, atol=1e-6)


def test_a_softmax_in_bfloat16_is_made_in_float32():
    q, k, v = (torch.randn(50, 2, 16).bfloat16() for _ in range(3))
    got = reference.causal_attention(q, k, v)
    assert got.dtype == torch.bfloat16
    exact = reference.causal_attention(q.double(), k.double(), v.double())
    assert (got.double() - exact).norm() < 0.02 * exact.norm()
