"""Which tokens a context-parallel rank computes, and which keys these see."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ling.model.attention import DenseAttend
from ling.train.parallel import context
from ling.train.parallel.context import CutRows, GatheredAttend, own_spans


def part_of(rank, ranks):
    mesh = SimpleNamespace(get_group=lambda: None, size=lambda: ranks, get_local_rank=lambda: rank)
    return CutRows(mesh)


@pytest.mark.parametrize("ranks", [2, 3])
def test_every_token_is_on_one_rank_and_all_have_the_same_work(ranks):
    rows, length = 2, 12 * ranks
    tokens = torch.arange(rows * length).view(rows, length)
    parts = [part_of(rank, ranks).cut(tokens) for rank in range(ranks)]
    assert sorted(torch.cat(parts).tolist()) == tokens.flatten().tolist()
    # Keys that causal attention sees, by query.
    assert len({int((part % length + 1).sum()) for part in parts}) == 1


@pytest.mark.parametrize("borders", [[0, 16, 32], [0, 3, 4, 13, 16, 17, 29, 32]])
def test_queries_see_the_keys_before_them_in_their_row_or_document(borders, monkeypatch):
    """Against attention in one piece, forward and backward, all ranks' parts in one process."""
    torch.manual_seed(0)
    q = torch.randn(32, 4, 8, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(32, 2, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weights = torch.randn(32, 4, 8, dtype=torch.float64)
    want = torch.autograd.grad((DenseAttend(borders)(0, q, k, v) * weights).sum(), (q, k, v))
    numbers = torch.arange(32).view(2, 16)
    monkeypatch.setattr(context._Gather, "apply", lambda kv, places, group: kv)
    total = q.new_zeros(())
    for rank in range(2):
        own = part_of(rank, 2).cut(numbers)
        attend = GatheredAttend(own_spans(borders, 2, 16, rank, 2), None, None)
        total = total + (attend(0, q[own], k, v) * weights[own]).sum()
    for a, b in zip(torch.autograd.grad(total, (q, k, v)), want, strict=True):
        torch.testing.assert_close(a, b)
