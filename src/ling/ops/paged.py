"""Attention over the pages of a KV cache, for any device; the definition that kernels are held to.

Legend: B requests · Q rows of each · H query heads · G kv heads · K head dim · P pages · W entries
of a page table · S positions · T tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

QUERY_ROWS = 512
"""Rows of a prompt that attend at a time: their mask over 32K positions is 16 MB."""
GATHERED_PAGES = 4096
"""Pages that are copied at a time: of 4 heads of 128 in bfloat16 they are 1/4 GB, and twice that in
float32."""


def paged_attention(
    q_BQHK: Tensor,
    k_PSGK: Tensor,
    v_PSGK: Tensor,
    table_BW: Tensor,
    positions_BQ: Tensor,
    lengths_B: Tensor,
) -> Tensor:
    """Each row's attention over its request's positions up to its own: out_BQHK.

    `table_BW` has the pages of each request in order, `lengths_B` says how many positions are
    written: what is behind them is never read as a value. Softmax in float32, scale 1/sqrt(K).
    """
    some = max(1, GATHERED_PAGES // table_BW.shape[1])
    parts = [
        _gathered(q, k_PSGK, v_PSGK, table, positions, lengths)
        for q, table, positions, lengths in zip(
            *(x.split(some) for x in (q_BQHK, table_BW, positions_BQ, lengths_B)), strict=True
        )
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _gathered(
    q_BQHK: Tensor,
    k_PSGK: Tensor,
    v_PSGK: Tensor,
    table_BW: Tensor,
    positions_BQ: Tensor,
    lengths_B: Tensor,
) -> Tensor:
    B, Q, H, K = q_BQHK.shape
    G = k_PSGK.shape[2]
    k, v = (x[table_BW.long()].flatten(1, 2).transpose(1, 2).float() for x in (k_PSGK, v_PSGK))
    at_S = torch.arange(k.shape[2], device=q_BQHK.device)
    v = v.masked_fill((at_S >= lengths_B[:, None])[:, None, :, None], 0)
    q = q_BQHK.float().view(B, Q, G, H // G, K).permute(0, 2, 1, 3, 4)
    scores = torch.einsum("bgqrk,bgsk->bgqrs", q * K**-0.5, k)
    hidden = at_S > positions_BQ[:, None, :, None, None]
    probs = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    out = torch.einsum("bgqrs,bgsk->bgqrk", probs, v)
    return out.permute(0, 2, 1, 3, 4).reshape(B, Q, H, K).to(q_BQHK.dtype)


def prompt_attention(
    q_THK: Tensor, k_PSGK: Tensor, v_PSGK: Tensor, pages_W: Tensor, first: int
) -> Tensor:
    """Many rows of one request, at the positions from `first` on: out_THK."""
    T, length = len(q_THK), first + len(q_THK)
    k_GSK, v_GSK = (
        x[pages_W.long()].flatten(0, 1)[:length].transpose(0, 1) for x in (k_PSGK, v_PSGK)
    )
    parts = [
        _prompt_rows(q_THK[a : a + QUERY_ROWS], k_GSK, v_GSK, first + a)
        for a in range(0, T, QUERY_ROWS)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _prompt_rows(q_THK: Tensor, k_GSK: Tensor, v_GSK: Tensor, first: int) -> Tensor:
    T, H, K = q_THK.shape
    G, length = len(k_GSK), first + T
    rows = torch.arange(first, length, device=q_THK.device)
    seen_TS = torch.arange(length, device=q_THK.device) <= rows[:, None]
    q_GRTK = q_THK.view(T, G, H // G, K).permute(1, 2, 0, 3)
    # Heads of a group share keys through a stride of zero, so nothing is copied for them.
    k, v = (x[:, None, :length].expand(-1, H // G, -1, -1) for x in (k_GSK, v_GSK))
    out_GRTK = F.scaled_dot_product_attention(q_GRTK, k, v, attn_mask=seen_TS)
    return out_GRTK.permute(2, 0, 1, 3).reshape(T, H, K)
