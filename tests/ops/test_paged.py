"""Attention over pages against causal attention of each request alone."""

from __future__ import annotations

import pytest
import torch

from ling.ops import paged, reference
from ling.ops.paged import paged_attention, prompt_attention

H, G, K, PAGE = 8, 2, 32, 64


def cache(pages, k_SGK, v_SGK):
    """Pages with these keys and values, the rest not a number."""
    keys, values = (torch.full((10, PAGE, G, K), float("nan")) for _ in range(2))
    for part, x_SGK in ((keys, k_SGK), (values, v_SGK)):
        flat = torch.full((len(pages) * PAGE, G, K), float("nan"))
        flat[: len(x_SGK)] = x_SGK
        part[torch.tensor(pages)] = flat.view(-1, PAGE, G, K)
    return keys, values


def sequence(length):
    torch.manual_seed(length)
    return (torch.randn(length, heads, K) for heads in (H, G, G))


def test_rows_at_the_end_of_requests_see_their_own_positions(monkeypatch):
    monkeypatch.setattr(paged, "GATHERED_PAGES", 4)  # requests go in two parts
    lengths, tables = [130, 64, 3], [[7, 2, 9], [1], [4]]
    keys, values = torch.zeros(2, 10, PAGE, G, K).unbind(0)
    q_BQHK, want = torch.zeros(3, 2, H, K), torch.zeros(3, 2, H, K)
    for b, (length, pages) in enumerate(zip(lengths, tables, strict=True)):
        q, k, v = sequence(length)
        for part, made in zip((keys, values), cache(pages, k, v), strict=True):
            part[torch.tensor(pages)] = made[torch.tensor(pages)]
        q_BQHK[b], want[b] = q[-2:], reference.causal_attention(q, k, v)[-2:]
    table_BW = torch.tensor([[*pages, 0, 0][:3] for pages in tables], dtype=torch.int32)
    positions_BQ = torch.tensor([[n - 2, n - 1] for n in lengths])
    got = paged_attention(q_BQHK, keys, values, table_BW, positions_BQ, torch.tensor(lengths))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("first", [0, 1, 70])
def test_rows_of_a_prompt_in_parts(first, monkeypatch):
    monkeypatch.setattr(paged, "QUERY_ROWS", 50)
    q, k, v = sequence(170)
    keys, values = cache([3, 5, 0], k, v)
    pages = torch.tensor([3, 5, 0], dtype=torch.int32)
    got = prompt_attention(q[first:], keys, values, pages, first)
    want = reference.causal_attention(q, k, v)[first:]
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
