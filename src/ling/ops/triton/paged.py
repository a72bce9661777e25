"""Decode attention over KV pages on a GPU: `ops.paged.paged_attention`, without copying a page.

The positions of a request are split at fixed borders, whatever shares the batch; a program each
reads one part, and a second kernel adds the parts in order.
Legend: B requests · Q rows of each · H query heads · G kv heads · K head dim · P pages · W entries
of a page table · N parts · M rows times heads of a group, filled up.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

PAGE = 64
PART = 8
"""Pages of a part."""
_LEAST_ROWS = 16  # of a product of tensor cores
_PARTS = 64  # that are added at a time


def paged_attention(
    q_BQHK: Tensor,
    k_PSGK: Tensor,
    v_PSGK: Tensor,
    table_BW: Tensor,
    positions_BQ: Tensor,
    lengths_B: Tensor,
) -> Tensor:
    """out_BQHK. Rows of q have one stride, heads follow each other. Pages have 64 positions; the
    head dimension is a power of two of at least 16."""
    B, Q, H, K = q_BQHK.shape
    G, W = k_PSGK.shape[2], table_BW.shape[1]
    N, M = triton.cdiv(W, PART), max(_LEAST_ROWS, triton.next_power_of_2(Q * (H // G)))
    out_BQHK = q_BQHK.new_empty(q_BQHK.shape)
    sums = q_BQHK.new_empty((B, G, N, M, K), dtype=torch.float32)
    tops, totals = q_BQHK.new_empty((2, B, G, N, M), dtype=torch.float32)
    sizes = {"G": G, "Q": Q, "HEADS": H // G, "K": K, "M": M}
    _part[(B, G, N)](
        q_BQHK,
        q_BQHK.stride(1),
        k_PSGK,
        v_PSGK,
        k_PSGK.stride(0),
        k_PSGK.stride(1),
        table_BW,
        table_BW.stride(0),
        positions_BQ,
        lengths_B,
        sums,
        tops,
        totals,
        N,
        K**-0.5,
        **sizes,
        PAGES=PART,
        POSITIONS=PAGE,
    )
    _combine[(B, G, Q * (H // G))](
        sums, tops, totals, lengths_B, out_BQHK, N, **sizes, POSITIONS=PART * PAGE, PARTS=_PARTS
    )
    return out_BQHK


@triton.jit
def _part(
    q_ptr: tl.tensor,
    row_stride: tl.tensor,
    k_ptr: tl.tensor,
    v_ptr: tl.tensor,
    page_stride: tl.tensor,
    position_stride: tl.tensor,
    table_ptr: tl.tensor,
    table_stride: tl.tensor,
    positions_ptr: tl.tensor,
    lengths_ptr: tl.tensor,
    sums_ptr: tl.tensor,
    tops_ptr: tl.tensor,
    totals_ptr: tl.tensor,
    N: tl.tensor,
    scale: tl.tensor,
    G: tl.constexpr,
    Q: tl.constexpr,
    HEADS: tl.constexpr,
    K: tl.constexpr,
    M: tl.constexpr,
    PAGES: tl.constexpr,
    POSITIONS: tl.constexpr,
) -> None:
    b, g, n = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths_ptr + b)
    first = n * PAGES * POSITIONS
    if first >= length:
        return
    m, d = tl.arange(0, M), tl.arange(0, K)
    row, head = m // HEADS, g * HEADS + m % HEADS
    used = row < Q
    q_at = ((b * Q + row) * row_stride + head * K)[:, None] + d[None, :]
    q = tl.load(q_ptr + q_at, mask=used[:, None], other=0.0)
    last = tl.load(positions_ptr + b * Q + row, mask=used, other=0)
    top = tl.full((M,), float("-inf"), tl.float32)
    total = tl.zeros((M,), tl.float32)
    sums = tl.zeros((M, K), tl.float32)
    pages = tl.minimum(PAGES, tl.cdiv(length - first, POSITIONS))
    for i in range(pages):
        at = first + i * POSITIONS + tl.arange(0, POSITIONS)
        page = tl.load(table_ptr + b * table_stride + n * PAGES + i).to(tl.int64)
        offsets = page * page_stride + tl.arange(0, POSITIONS)[:, None] * position_stride
        offsets += g * K + d[None, :]
        written = (at < length)[:, None]
        keys = tl.load(k_ptr + offsets, mask=written, other=0.0)
        scores = tl.dot(q, tl.trans(keys), input_precision="ieee") * scale
        scores = tl.where(at[None, :] <= last[:, None], scores, float("-inf"))
        new = tl.maximum(top, tl.max(scores, 1))
        # A row that sees nothing so far has no largest score to subtract.
        base = tl.where(new == float("-inf"), 0.0, new)
        weights, shrink = tl.exp(scores - base[:, None]), tl.exp(top - base)
        # Values behind what is written are never read: zero times them need not be zero.
        values = tl.load(v_ptr + offsets, mask=written, other=0.0)
        part = tl.dot(weights.to(values.dtype), values, input_precision="ieee")
        sums = sums * shrink[:, None] + part
        total = total * shrink + tl.sum(weights, 1)
        top = new
    to = ((b * G + g) * N + n) * M + m
    tl.store(sums_ptr + to[:, None] * K + d[None, :], sums)
    tl.store(tops_ptr + to, top)
    tl.store(totals_ptr + to, total)


@triton.jit
def _combine(
    sums_ptr: tl.tensor,
    tops_ptr: tl.tensor,
    totals_ptr: tl.tensor,
    lengths_ptr: tl.tensor,
    out_ptr: tl.tensor,
    N: tl.tensor,
    G: tl.constexpr,
    Q: tl.constexpr,
    HEADS: tl.constexpr,
    K: tl.constexpr,
    M: tl.constexpr,
    POSITIONS: tl.constexpr,
    PARTS: tl.constexpr,
) -> None:
    b, g, m = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    d = tl.arange(0, K)
    top, total, sums = float("-inf"), 0.0, tl.zeros((K,), tl.float32)
    parts = tl.cdiv(tl.load(lengths_ptr + b), POSITIONS)
    for first in range(0, parts, PARTS):
        n = first + tl.arange(0, PARTS)
        at, mask = ((b * G + g) * N + n) * M + m, n < parts
        tops = tl.load(tops_ptr + at, mask=mask, other=float("-inf"))
        # The first position is seen by every row, so the largest score is a number.
        new = tl.maximum(top, tl.max(tops, 0))
        shrink, grow = tl.exp(top - new), tl.exp(tops - new)
        part = tl.load(sums_ptr + at[:, None] * K + d[None, :], mask=mask[:, None], other=0.0)
        sums = sums * shrink + tl.sum(part * grow[:, None], 0)
        total = total * shrink + tl.sum(tl.load(totals_ptr + at, mask=mask, other=0.0) * grow, 0)
        top = new
    row, head = m // HEADS, g * HEADS + m % HEADS
    out = sums / total
    tl.store(
        out_ptr + ((b * Q + row) * (G * HEADS) + head) * K + d, out.to(out_ptr.dtype.element_ty)
    )
