"""SwiGLU of each expert on its own rows, forward and backward."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from ling.ops import experts, grouped, reference

# An expert without rows first, in the middle and last.
OFFSETS = [0, 0, 3, 8, 8, 9, 9]


def by_formula(x, gate, up, down):
    """One expert after the other, in plain autograd."""
    out = []
    for e, (a, b) in enumerate(pairwise(OFFSETS)):
        g, u = x[a:b] @ gate[e].T, x[a:b] @ up[e].T
        out.append((g / (1 + (-g).exp()) * u) @ down[e].T)
    return torch.cat(out)


def as_a_device_wants(offsets):
    """The same borders for `grouped_mm`, which needs no list of numbers."""
    return torch.tensor(offsets[1:], dtype=torch.int32)


def some_weights(dtype=torch.float64, E=6, D=8, F=5):
    return [torch.randn(s, dtype=dtype) for s in ((E, F, D), (E, F, D), (E, D, F))]


def test_rows_and_gradients_are_those_of_each_expert_alone():
    leaves = [torch.randn(9, 8, dtype=torch.float64), *some_weights()]
    for leaf in leaves:
        leaf.requires_grad_()
    x, *weights = leaves
    dy = torch.randn(9, 8, dtype=torch.float64)
    got, want = grouped.swiglu(x, OFFSETS, *weights), by_formula(x, *weights)
    torch.testing.assert_close(got, want)
    for a, b in zip(
        torch.autograd.grad(got, leaves, dy), torch.autograd.grad(want, leaves, dy), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_an_expert_without_rows_has_a_gradient_of_zero():
    weights = [w.requires_grad_() for w in some_weights()]
    out = grouped.swiglu(torch.randn(9, 8, dtype=torch.float64), OFFSETS, *weights)
    for grad in torch.autograd.grad(out.sum(), weights):
        assert [bool(g.any()) for g in grad] == [False, True, True, False, True, False]


def test_frozen_weights_have_no_gradient(monkeypatch):
    x, weights = torch.randn(9, 8, dtype=torch.float64, requires_grad=True), some_weights()
    want = torch.autograd.grad(by_formula(x, *weights).sum(), x)[0]

    def refuse(*args):
        raise AssertionError("made the gradient of a frozen weight")

    monkeypatch.setattr(grouped, "weight_gradient", refuse)
    got = torch.autograd.grad(grouped.swiglu(x, OFFSETS, *weights).sum(), x)[0]
    torch.testing.assert_close(got, want)


def test_products_are_in_the_dtype_of_the_rows_and_gradients_in_that_of_the_weights():
    x, weights = torch.randn(9, 8), [w.requires_grad_() for w in some_weights(torch.float32)]
    out = grouped.swiglu(x.bfloat16(), OFFSETS, *weights)
    assert out.dtype == torch.bfloat16
    want = by_formula(x, *weights)
    assert (out.float() - want).norm() < 0.02 * want.norm()
    for got, exact in zip(
        torch.autograd.grad(out.float().sum(), weights),
        torch.autograd.grad(want.sum(), weights),
        strict=True,
    ):
        assert got.dtype == torch.float32
        assert (got - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("rows", [0, 1])
def test_few_rows_are_no_special_case(rows):
    weights = some_weights(E=2)
    x = torch.randn(rows, 8, dtype=torch.float64)
    got = grouped.swiglu(x, [0, 0, rows], *weights)
    torch.testing.assert_close(got, reference.swiglu(x, *(w[1] for w in weights)))


def three_steps(x, ids, w, *weights):
    slots = experts.sort_by_expert(ids, len(weights[0]), 16)
    rows = grouped.swiglu(experts.dispatch(x, slots), slots.offsets, *weights)
    return experts.combine(rows, slots, w)


def test_experts_equal_the_reference_and_its_gradient():
    torch.manual_seed(0)
    E, F, D, T, A = 8, 16, 32, 40, 2
    x = torch.randn(T, D, requires_grad=True)
    weights = [torch.randn(s, requires_grad=True) for s in ((E, F, D), (E, F, D), (E, D, F))]
    ids = torch.rand(T, E).topk(A).indices
    w = torch.rand(T, A, requires_grad=True)
    grads = []
    for op in (three_steps, reference.moe):
        out = op(x, ids, w, *weights)
        grads.append([out, *torch.autograd.grad(out.square().sum(), [x, w, *weights])])
    for got, want in zip(*grads, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_grouped_mm_gives_what_the_loop_gives(dtype):
    torch.manual_seed(0)
    leaves = [torch.randn(9, 16), *some_weights(torch.float32, D=16, F=8)]
    for leaf in leaves:
        leaf.requires_grad_()
    x, *weights = leaves
    dy, found = torch.randn(9, 16).to(dtype), []
    for groups in (as_a_device_wants(OFFSETS), OFFSETS):
        out = grouped.swiglu(x.to(dtype), groups, *weights)
        found.append([out, *torch.autograd.grad(out, leaves, dy)])
    for got, want in zip(*found, strict=True):
        assert got.dtype == want.dtype
        assert got.stride() == want.stride()
        torch.testing.assert_close(got, want)
    for grad in found[0][2:]:
        assert [bool(g.any()) for g in grad] == [False, True, True, False, True, False]


def test_grouped_mm_equals_the_formula():
    leaves = [torch.randn(9, 16), *some_weights(torch.float32, D=16, F=8)]
    for leaf in leaves:
        leaf.requires_grad_()
    x, *weights = leaves
    got, want = (
        grouped.swiglu(x, as_a_device_wants(OFFSETS), *weights),
        by_formula(x, *weights),
    )
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    for a, b in zip(
        torch.autograd.grad(got.sum(), leaves), torch.autograd.grad(want.sum(), leaves), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


def test_a_gradient_that_was_never_written_is_zero(monkeypatch):
    """Of an expert without rows `grouped_mm` leaves what was in memory, on some GPUs."""
    multiplied = F.grouped_mm

    def uninitialised(a, b, offs):
        out = multiplied(a, b, offs=offs)
        return out.masked_fill_((offs == torch.tensor([0, *offs[:-1]]))[:, None, None], torch.nan)

    monkeypatch.setattr(F, "grouped_mm", uninitialised)
    monkeypatch.setattr(grouped, "_leaves_memory_as_it_is", lambda dw_ENK: True)
    dy, x = torch.randn(9, 8), torch.randn(9, 16)
    got = grouped.weight_gradient(dy, x, as_a_device_wants(OFFSETS))
    want = [dy[a:b].T @ x[a:b] for a, b in pairwise(OFFSETS)]
    torch.testing.assert_close(got, torch.stack(want))
