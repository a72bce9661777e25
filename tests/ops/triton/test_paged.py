"""Decode attention of the GPU kernel is the definition's."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed: pip install triton")

from ling.ops.paged import paged_attention as definition
from ling.ops.triton.paged import PART, paged_attention

G, K, PAGE = 2, 32, 64


@pytest.mark.parametrize(("heads", "rows"), [(8, 1), (8, 2), (2, 3), (16, 8)])
def test_parts_add_up_to_the_definition(heads, rows):
    # In float32: the interpreter multiplies bfloat16 as if it were whole numbers.
    torch.manual_seed(0)
    lengths = torch.tensor([rows, 64, 65, PART * PAGE, PART * PAGE + 1 + rows], dtype=torch.int32)
    W = PART + 2
    k, v = torch.randn(2, 5 * W, PAGE, G, K).unbind(0)
    table = torch.randperm(5 * W).view(5, W).int()
    # Behind the end of a request is what others left.
    for b, length in enumerate(lengths.tolist()):
        k[table[b].long()].flatten(0, 1)[length:] = float("nan")
        flat = v[table[b].long()].flatten(0, 1)
        flat[length:] = float("nan")
        v[table[b].long()] = flat.view(W, PAGE, G, K)
    q = torch.randn(5, rows, heads, K)
    positions = (lengths[:, None] - rows + torch.arange(rows)).int()
    got = paged_attention(q, k, v, table, positions, lengths)
    want = definition(q, k, v, table, positions, lengths)
    assert got.isfinite().all()
    torch.testing.assert_close(got, want, atol=2e-6, rtol=2e-6)


def test_a_request_has_the_same_bits_beside_others():
    torch.manual_seed(1)
    k, v = torch.randn(2, 20, PAGE, G, K).unbind(0)
    table = torch.randperm(20).view(2, 10).int()
    lengths = torch.tensor([600, 70], dtype=torch.int32)
    q, positions = torch.randn(2, 1, 8, K), lengths[:, None] - 1
    both = paged_attention(q, k, v, table, positions, lengths)
    for b in range(2):
        one = [x[b : b + 1].contiguous() for x in (table, positions, lengths)]
        one[0] = one[0][:, : -(-int(lengths[b]) // PAGE)].contiguous()
        assert torch.equal(paged_attention(q[b : b + 1], k, v, *one), both[b : b + 1])
