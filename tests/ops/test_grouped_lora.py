"""SwiGLU of frozen experts with adapters, forward and backward."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from ling.ops import grouped, grouped_lora, reference
from ling.ops.grouped_lora import FloatExperts, LowRankExperts

# An expert without rows first, in the middle and last.
OFFSETS = [0, 0, 3, 8, 8, 9, 9]
E, D, F = 6, 16, 8


def some(ranks=(4, 4, 4), dtype=torch.float32, seed=0):
    """Rows, frozen weights and adapters of which nothing is zero."""
    made = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.randn(shape, generator=made, dtype=torch.float64).to(dtype)

    base = rand(E, F, D), rand(E, F, D), rand(E, D, F)
    low_rank = []
    for r, (n, k) in zip(ranks, ((F, D), (F, D), (D, F)), strict=True):
        low_rank += [rand(E, r, k), rand(E, n, r)]
    return rand(9, D), base, LowRankExperts(*low_rank)


def by_formula(x, base, low_rank, scale):
    """One expert after the other with merged weights, in plain autograd."""
    out = []
    pairs = list(zip(low_rank[::2], low_rank[1::2], strict=True))
    for e, (a, b) in enumerate(pairwise(OFFSETS)):
        merged = [w[e] + scale * (B[e] @ A[e]) for w, (A, B) in zip(base, pairs, strict=True)]
        out.append(reference.swiglu(x[a:b], *merged))
    return torch.cat(out)


def grads(out, leaves, dy):
    return torch.autograd.grad(out, leaves, dy)


def trained(x, low_rank):
    return [t.requires_grad_() for t in (x, *low_rank)]


@pytest.mark.parametrize("ranks", [(4, 4, 4), (16, 16, 16), (1, 2, 3)])
@pytest.mark.parametrize("groups", [OFFSETS, torch.tensor(OFFSETS[1:], dtype=torch.int32)])
def test_rows_and_gradients_are_those_of_merged_weights(ranks, groups):
    x, base, low_rank = some(ranks)
    leaves, dy = trained(x, low_rank), torch.randn(9, D)
    got = grouped_lora.swiglu(x, groups, FloatExperts(*base), low_rank, 0.5)
    want = by_formula(x.double(), [w.double() for w in base], [t.double() for t in low_rank], 0.5)
    for a, b in zip((got, *grads(got, leaves, dy)), (want, *grads(want, leaves, dy)), strict=True):
        assert (a - b).norm() <= 1e-6 * b.norm()


def test_the_backward_pass_is_the_derivative():
    x, base, low_rank = some((1, 2, 1), torch.float64)

    def output(x, *low_rank):
        return grouped_lora.swiglu(x, OFFSETS, FloatExperts(*base), LowRankExperts(*low_rank), 2.0)

    assert torch.autograd.gradcheck(output, trained(x, low_rank), fast_mode=True)


def test_an_expert_without_rows_has_a_gradient_of_zero():
    x, base, low_rank = some()
    leaves = trained(x, low_rank)
    out = grouped_lora.swiglu(x, OFFSETS, FloatExperts(*base), low_rank)
    for grad in grads(out, leaves[1:], torch.ones(9, D)):
        assert [bool(g.any()) for g in grad] == [False, True, True, False, True, False]


def test_products_are_in_the_dtype_of_the_rows_and_gradients_in_that_of_the_adapters():
    x, base, low_rank = some()
    leaves, dy = trained(x, low_rank), torch.randn(9, D)
    got = grouped_lora.swiglu(x.bfloat16(), OFFSETS, FloatExperts(*base), low_rank)
    want = by_formula(x, base, low_rank, 1.0)
    assert got.dtype == torch.bfloat16
    assert (got - want).norm() < 0.02 * want.norm()
    found = grads(got, leaves, dy.bfloat16())
    for grad, exact, p in zip(found, grads(want, leaves, dy), leaves, strict=True):
        assert (grad.dtype, grad.stride()) == (p.dtype, p.stride())
        assert (grad - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_adapters_bits_are_those_of_the_frozen_weights(dtype):
    x, base, _ = some(dtype=dtype)
    dy, found = torch.randn(9, D, dtype=dtype), []
    x.requires_grad_()
    for out in (
        grouped_lora.swiglu(x, OFFSETS, FloatExperts(*base), None),
        grouped.swiglu(x, OFFSETS, *base),
    ):
        found.append((out, *grads(out, [x], dy)))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
