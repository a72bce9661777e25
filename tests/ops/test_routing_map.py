"""The padded routing map: upstream's bit for bit, and the same results as rows of zeros."""

from __future__ import annotations

import json

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from ling.ops import experts, grouped, routing_map


def some_map(T, E, A, seed=0):
    ids = torch.rand(T, E, generator=torch.Generator().manual_seed(seed)).topk(A).indices
    return ids, torch.zeros(T, E, dtype=torch.bool).scatter_(1, ids, True)


@pytest.mark.parametrize("block", [16, 32])
def test_padded_map_is_upstreams_bit_for_bit(fixtures, block):
    found = json.loads((fixtures / "training" / "router.json").read_text())
    given = torch.tensor(found["routing_map"]).bool()
    want = torch.tensor(found["padded_routing_map"][str(block)]).bool()
    got = routing_map.padded_map(given, block)
    assert torch.equal(got, want)
    assert (got.sum(0) % block == 0).all()


def test_an_expert_without_tokens_gets_none():
    given = torch.zeros(20, 3, dtype=torch.bool)
    given[5:9, 1] = True
    got = routing_map.padded_map(given)
    assert got.sum(0).tolist() == [0, 16, 0]
    assert got[:, 1].nonzero().flatten().tolist() == list(range(16))


def test_a_map_with_too_few_tokens_is_not_padded_at_all():
    # Upstream flips what there is, silently, and the rows are no multiple of 16 (Megatron #6086).
    given = torch.zeros(20, 2, dtype=torch.bool)
    given[:17, 0] = True  # 32 are wanted of 20
    given[:3, 1] = True
    assert routing_map.padded_map(given) is None
    ids, tokens = given.t().nonzero(as_tuple=True)
    slots = routing_map.slots_of_padded_map(ids, tokens, 20, 2)
    assert slots.added_P is None
    assert slots.offsets == [0, 32, 48]


def test_slots_follow_the_padded_map():
    ids, given = some_map(50, 8, 2)
    slots = routing_map.slots_of_padded_map(ids.flatten(), routing_map.tokens_of(ids), 50, 8)
    x = torch.arange(50.0)[:, None]
    rows = experts.dispatch(x, slots)[:, 0].long()
    for e, (a, b) in enumerate(zip(slots.offsets, slots.offsets[1:], strict=False)):
        own = given[:, e].nonzero().flatten().tolist()
        assert rows[a : a + len(own)].tolist() == own
        padded = routing_map.padded_map(given)[:, e].nonzero().flatten().tolist()
        assert sorted(rows[a:b].tolist()) == padded


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("T", [50, 9])
def test_results_and_gradients_are_those_of_rows_of_zeros(dtype, T):
    E, D, F = 8, 12, 10
    ids, _ = some_map(T, E, 2)
    given = [torch.randn(T, D).to(dtype), torch.rand(T, 2)]
    given += [torch.randn(s) for s in ((E, F, D), (E, F, D), (E, D, F))]
    slots_of = {
        "zeros": lambda: experts.sort_by_expert(ids, E, 16),
        "map": lambda: routing_map.slots_of_padded_map(
            ids.flatten(), routing_map.tokens_of(ids), T, E
        ),
    }
    found = {}
    for name, make in slots_of.items():
        slots = make()
        # 9 tokens are too few for 16: both pad with zeros.
        assert (slots.added_P is not None) == (name == "map" and T == 50)
        inputs = [t.clone().requires_grad_() for t in given]
        x, w, *weights = inputs
        y = grouped.swiglu(experts.dispatch(x, slots), slots.groups, *weights)
        out = experts.combine(y, slots, w)
        out.backward(torch.linspace(-1, 1, T * D).view(T, D).to(dtype))
        found[name] = [out.detach(), *(t.grad for t in inputs)]
    for a, b in zip(found["zeros"], found["map"], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("T", "E", "A"), [(50, 8, 2), (9, 8, 2), (100, 4, 4), (64, 3, 1)])
def test_a_device_that_is_not_waited_for_has_the_same_rows(T, E, A):
    """With tokens to add, with too few, with none missing; and behind them rows of no expert."""
    ids, given = some_map(T, E, A)
    x = torch.arange(1.0, T + 1)[:, None]
    by_map = routing_map.slots_of_padded_map(ids.flatten(), routing_map.tokens_of(ids), T, E)
    fixed = routing_map.slots_without_waiting(given, ids.flatten(), 16)
    assert fixed.offsets == by_map.offsets
    assert torch.equal(fixed.slot_N, by_map.slot_N)
    assert fixed.rows % 16 == 0
    want, got = (experts.dispatch(x, slots) for slots in (by_map, fixed))
    assert torch.equal(got[: len(want)], want)
    assert not got[len(want) : -1].any()


def test_no_value_is_read_from_a_device():
    """Fake tensors have none: reading one is an error."""
    with FakeTensorMode():
        given = torch.empty(50, 8, dtype=torch.bool)
        ids = torch.empty(100, dtype=torch.int64)
        assert routing_map.slots_without_waiting(given, ids, 16).rows == 224
        with pytest.raises(DataDependentOutputException):
            routing_map.padded_map(given)
