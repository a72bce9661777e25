"""The C++ core's steps of a mixture of experts in float32, against the same steps in torch."""

from __future__ import annotations

import pytest
import torch

from ling.errors import KernelError
from ling.ops import experts, grouped, native, native_moe, reference

pytestmark = pytest.mark.skipif(native.library() is None, reason="no kernel library")


def routed(E, D, F, T, A=2):
    """Slots of random ids, and leaves: rows, weights of a token's experts, and the experts'."""
    torch.manual_seed(0)
    ids = torch.stack([torch.randperm(E)[:A] for _ in range(T)])
    shapes = ((T, D), (T, A), (E, F, D), (E, F, D), (E, D, F))
    return ids, [torch.randn(s).requires_grad_() for s in shapes]


def outputs_and_gradients(ids, leaves):
    x, w, *weights = leaves
    slots = experts.sort_by_expert(ids, len(weights[0]), 16)
    rows = grouped.swiglu(experts.dispatch(x, slots), slots.groups, *weights)
    out = experts.combine(rows, slots, w)
    channels = torch.linspace(-1, 1, out.shape[1], dtype=torch.float32)
    return [out, *torch.autograd.grad((out * channels).sum(), leaves)]


@pytest.mark.parametrize("shape", [(31, 64, 32, 100), (16, 16, 48, 7), (20, 128, 64, 300)])
def test_a_layer_and_its_gradients_are_those_of_torch(shape, monkeypatch):
    ids, leaves = routed(*shape)
    assert native_moe.has_small_experts(leaves[0], *leaves[2:])
    got = outputs_and_gradients(ids, leaves)
    monkeypatch.setattr(native, "library", lambda: None)
    assert not native_moe.has_small_experts(leaves[0], *leaves[2:])
    want = outputs_and_gradients(ids, leaves)
    for a, b in zip(got, want, strict=True):
        assert a.stride() == b.stride()
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.detach().abs().max()))


def test_bits_do_not_depend_on_threads():
    ids, leaves = routed(24, 32, 16, 900)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(outputs_and_gradients(ids, leaves))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_frozen_experts_have_no_gradient():
    _, (x, _, *weights) = routed(16, 16, 16, 9)
    frozen = [w.detach() for w in weights]
    borders = [0, 2, 2, 7, *[9] * 13]
    dx = torch.autograd.grad(grouped.swiglu(x, borders, *frozen).sum(), x)[0]
    learning = torch.autograd.grad(grouped.swiglu(x, borders, *weights).sum(), x)[0]
    assert torch.equal(dx, learning)
    (only,) = torch.autograd.grad(
        grouped.swiglu(x.detach(), borders, frozen[0], weights[1], frozen[2]).sum(), [weights[1]]
    )
    both = torch.autograd.grad(grouped.swiglu(x, borders, *weights).sum(), [weights[1]])
    assert torch.equal(only, both[0])


def test_no_rows_are_no_special_case():
    """What a rank has that no token was sent to."""
    ids, leaves = routed(16, 32, 16, 9)
    x, w, *weights = leaves
    none = [x[:0].detach().requires_grad_(), w[:0].detach().requires_grad_(), *weights]
    out, *gradients = outputs_and_gradients(ids[:0], none)
    assert out.shape == (0, 32)
    assert not any(g.any() for g in gradients)


def test_torchs_default_type_is_not_that_of_results():
    ids, leaves = routed(16, 32, 16, 40)
    want = outputs_and_gradients(ids, leaves)
    torch.set_default_dtype(torch.bfloat16)
    try:
        got = outputs_and_gradients(ids, leaves)
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


def test_a_row_that_is_not_finite_spoils_its_expert_alone():
    _, (x, _, *weights) = routed(16, 32, 16, 9)
    rows = x.detach().clone()
    rows[2] = torch.nan
    borders = [0, 2, 5, *[9] * 14]
    y = grouped.swiglu(rows, borders, *weights)
    assert y.isnan().any(1).nonzero().flatten().tolist() == [2]
    spoilt = [g.isnan().flatten(1).any(1) for g in torch.autograd.grad(y.sum(), weights)]
    assert all(s.nonzero().flatten().tolist() == [1] for s in spoilt)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x, w: (x.double(), [v.double() for v in w]), "another type"),
        (lambda x, w: (x[:, :24], [w[0][..., :24], w[1][..., :24], w[2][:, :24]]), "odd sizes"),
        (lambda x, w: (x, [v.repeat(1, 64, 64) for v in w]), "large experts"),
        (lambda x, w: (x, [v[:15] for v in w]), "few experts"),
    ],
)
def test_other_experts_are_torchs(change, reason, monkeypatch):
    _, (x, _, *weights) = routed(16, 32, 16, 9)
    assert native_moe.has_small_experts(x, *weights) == (native.isa() != "generic")
    monkeypatch.setattr(native, "isa", lambda: "avx2")
    assert native_moe.has_small_experts(x, *weights)
    changed, others = change(x, weights)
    assert not native_moe.has_small_experts(changed, *others), reason


def test_choices_with_ties_and_values_that_are_not_finite_are_the_references():
    scores = torch.randint(-2, 3, (200, 37)).float()
    scores[3, 5], scores[4, 7:20], scores[5] = torch.nan, torch.inf, -torch.inf
    for k in (1, 8, 37):
        assert torch.equal(experts.top_k(scores, k), reference.top_k_lowest_id(scores, k))
    grouped_scores = scores.view(20, 10, 37)[..., ::3]
    want = reference.top_k_lowest_id(grouped_scores, 2)
    assert torch.equal(experts.top_k(grouped_scores, 2), want)


def test_wrong_arguments_are_refused():
    ids, (x, w, *weights) = routed(4, 16, 16, 9)
    with pytest.raises(KernelError, match="end at 8"):
        native_moe.swiglu(x, [0, 1, 2, 3, 8], *weights)
    for rows, down in ((x, weights[2][:, :8]), (x[:, :8], weights[2])):
        with pytest.raises(KernelError, match="have shapes"):
            native_moe.swiglu(rows, [0, 1, 2, 3, 9], weights[0], weights[1], down)
    _, gu = native_moe.swiglu(x, [0, 1, 2, 3, 9], *weights)
    with pytest.raises(KernelError, match="have gradients of"):
        native_moe.swiglu_gradient(x, [0, 1, 2, 3, 9], gu, weights, x[:5], wanted=True)
    slots = torch.arange(18)
    y = torch.randn(18, 16)
    with pytest.raises(KernelError, match="have gradients of"):
        native_moe.combine_gradient(y, slots, w, torch.randn(8, 16))
    for call in (
        lambda: native_moe.swiglu(x.double(), [0, 1, 2, 3, 9], *weights),
        lambda: native_moe.combine(y.bfloat16(), slots, w),
        lambda: native_moe.top_k(y.double(), 3),
    ):
        with pytest.raises(KernelError, match="float32 on the CPU"):
            call()
    with pytest.raises(KernelError, match="not sorted by expert"):
        native_moe.swiglu(x, [0, 5, 2, 3, 9], *weights)
    with pytest.raises(KernelError, match="a slot is out of range"):
        native_moe.combine(x, torch.full((18,), 9), w)
    with pytest.raises(KernelError, match="an id is out of range"):
        native_moe.sorted_rows(ids.flatten() + 1, torch.zeros(4, dtype=torch.int64))
