"""Rows to their experts and back: where each goes, and that nothing is lost on the way."""

from __future__ import annotations

import pytest
import torch

from ling.ops import experts


def some_ids(T, E, A, seed=0):
    return torch.rand(T, E, generator=torch.Generator().manual_seed(seed)).topk(A).indices


@pytest.mark.parametrize("block", [1, 16, 64])
@pytest.mark.parametrize(("T", "E", "A"), [(1, 4, 1), (40, 8, 2), (7, 16, 4), (50, 3, 3)])
def test_slots_are_those_of_a_walk_over_the_tokens(T, E, A, block):
    ids = some_ids(T, E, A)
    slots = experts.sort_by_expert(ids, E, block)
    start, want = 0, {}
    for e in range(E):
        assert slots.offsets[e] == start
        rows = [i for i, chosen in enumerate(ids.flatten().tolist()) if chosen == e]
        want |= {i: start + n for n, i in enumerate(rows)}
        start += -(-len(rows) // block) * block
    assert slots.offsets[E] == start
    assert slots.slot_N.tolist() == [want[i] for i in range(T * A)]


def test_rows_and_borders_are_known_without_a_look_at_the_numbers():
    ids = some_ids(40, 8, 2)
    assert experts.expert_counts(ids, 8).tolist() == torch.bincount(ids.flatten()).tolist()
    for block in (1, 16):
        slots = experts.sort_by_expert(ids, 8, block)
        assert slots.rows == slots.offsets[-1]
        assert slots.groups == slots.offsets  # a loop on the CPU


def test_experts_without_rows_are_left_out():
    assert experts.experts_with_rows([0, 16, 16, 48, 48]) == [(0, slice(0, 16)), (2, slice(16, 48))]
    assert experts.experts_with_rows([0, 0, 0]) == []


def test_blocks_are_small_where_padding_would_be_most_of_the_rows():
    assert experts.row_block(64 * 8, 8) == 64
    assert experts.row_block(64 * 8 - 1, 8) == 16


def test_dispatched_rows_are_copies_and_padding_is_zero():
    ids, x = some_ids(9, 4, 2), torch.randn(9, 5)
    slots = experts.sort_by_expert(ids, 4, 16)
    rows = experts.dispatch(x, slots)
    assert len(rows) == slots.offsets[-1]
    assert torch.equal(rows[slots.slot_N], x.repeat_interleave(2, 0))
    padding = torch.ones(len(rows), dtype=torch.bool)
    padding[slots.slot_N] = False
    assert padding.any()
    assert (rows[padding] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_combined_rows_are_summed_in_float32_and_rounded_once(dtype):
    slots = experts.sort_by_expert(some_ids(9, 4, 3), 4, 16)
    y, w = torch.randn(slots.offsets[-1], 5).to(dtype), torch.rand(9, 3)
    want = [sum(w[t, a] * y[slots.slot_N[3 * t + a]].float() for a in range(3)) for t in range(9)]
    got = experts.combine(y, slots, w)
    assert got.dtype == dtype
    # One rounding of the sum; bfloat16 sums would be off by several.
    torch.testing.assert_close(got, torch.stack(want).to(dtype), atol=1e-6, rtol=2**-8)


def test_rows_that_are_given_no_slot_get_no_gradient():
    slots = experts.sort_by_expert(some_ids(9, 4, 2), 4, 16)
    y = torch.randn(slots.offsets[-1], 5, dtype=torch.float64, requires_grad=True)
    w = torch.rand(9, 2, dtype=torch.float64, requires_grad=True)
    dout = torch.randn(9, 5, dtype=torch.float64)
    dy, dw = torch.autograd.grad(experts.combine(y, slots, w), (y, w), dout)
    want = torch.zeros_like(y)
    want[slots.slot_N] = (dout[:, None] * w[..., None]).flatten(0, 1).detach()
    torch.testing.assert_close(dy, want)
    rows = y[slots.slot_N].view(9, 2, 5)
    torch.testing.assert_close(dw, (rows * dout[:, None]).sum(-1).detach(), rtol=1e-5, atol=1e-5)


def test_rows_that_skip_the_products_come_back_as_their_weighted_tokens():
    torch.manual_seed(0)
    x = torch.randn(10, 4, dtype=torch.float64, requires_grad=True)
    w = torch.rand(10, 2, dtype=torch.float64, requires_grad=True)
    slots = experts.sort_by_expert(torch.rand(10, 8).topk(2).indices, 8, 16)
    out = experts.combine(experts.dispatch(x, slots), slots, w)
    want = x * w.sum(1, keepdim=True)
    torch.testing.assert_close(out, want, rtol=1e-6, atol=1e-6)
    got = torch.autograd.grad(out.square().sum(), [x, w])
    for a, b in zip(got, torch.autograd.grad(want.square().sum(), [x, w]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
