"""Causal attention of packed sequences, differentiable: native, or torch's own.

Legend: T queries · S keys · H query heads · G kv heads · K head dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import native, native_causal, products


def causal_attention(
    q_THK: Tensor,
    k_SGK: Tensor,
    v_SGK: Tensor,
    query_ends: Sequence[int],
    key_ends: Sequence[int] | None = None,
) -> Tensor:
    """out_THK: every query sees the keys of its own sequence up to its position; scale 1/sqrt(K).

    Sequence i has queries `query_ends[i]` to `[i + 1]` and keys `key_ends[i]` to `[i + 1]`, by
    default the same ones. With more keys than queries the queries are those of the last positions:
    a rank that has positions [a, b) of a document passes keys [0, b).
    """
    key_ends = query_ends if key_ends is None else key_ends
    if len(q_THK) and has_kernel(q_THK):
        return _Causal.apply(q_THK, k_SGK, v_SGK, list(query_ends), list(key_ends))
    if key_ends == query_ends and len({b - a for a, b in pairwise(query_ends)}) == 1:
        return _sdpa(q_THK, k_SGK, v_SGK, len(query_ends) - 1)
    parts = [
        _sdpa(q_THK[a:b], k_SGK[c:d], v_SGK[c:d], 1)
        for (a, b), (c, d) in zip(pairwise(query_ends), pairwise(key_ends), strict=True)
        if b > a
    ]
    return torch.cat(parts) if parts else torch.empty_like(q_THK)


def has_kernel(q_THK: Tensor) -> bool:
    """Whether the C++ core computes this: float32 on a CPU, and bfloat16 where it has products of
    bfloat16. Elsewhere torch is as fast or faster.
    """
    K = q_THK.shape[-1]
    fits = K % native_causal.HEAD_STEP == 0 and K <= native_causal.LARGEST_HEAD
    if not fits or not native.reads(q_THK):
        return False
    if q_THK.dtype == torch.bfloat16:
        return native.isa() == "avx512bf16"
    return q_THK.dtype == torch.float32 and native.isa() != "generic"


def _sdpa(q_THK: Tensor, k_SGK: Tensor, v_SGK: Tensor, rows: int) -> Tensor:
    """Rows of one length, batched into one call."""
    if not len(q_THK):
        return torch.empty_like(q_THK)
    q, k, v = (x.unflatten(0, (rows, -1)).transpose(1, 2) for x in (q_THK, k_SGK, v_SGK))
    queries, keys = q.shape[2], k.shape[2]
    if products.widens(q) and keys == queries:
        return _Widened.apply(q, k, v).transpose(1, 2).flatten(0, 1)
    seen = _lower_right(queries, keys) if keys > queries else None
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=seen, is_causal=seen is None, enable_gqa=q.shape[1] != k.shape[1]
    )
    return out.transpose(1, 2).flatten(0, 1)


def _lower_right(queries: int, keys: int) -> Tensor:
    # Imported late: it loads torch's compiler, which takes a second and needs a temporary folder
    # that can be written to. To generate tokens needs neither.
    from torch.nn.attention.bias import causal_lower_right

    return causal_lower_right(queries, keys)


class _Widened(torch.autograd.Function):
    """torch's attention in float32, of operands that stay as they are (`ops/products.py`)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        wide = _for_each_head(q, k, v)
        out, lse = _flash(*wide, 0.0, True)
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        wide = _for_each_head(q, k, v)
        dq, dk, dv = _flash_backward(grads[0].float(), *wide, out.float(), lse, 0.0, True)
        groups = (k.shape[1], -1)
        dk, dv = (x.unflatten(1, groups).sum(2).to(k.dtype) for x in (dk, dv))
        return dq.to(q.dtype), dk, dv


_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def _for_each_head(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    """float32, with the keys and values of a group for each of its queries' heads."""
    repeats = q.shape[1] // k.shape[1]
    return q.float(), *(x.float().repeat_interleave(repeats, 1) for x in (k, v))


class _Causal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_THK: Tensor, k_SGK: Tensor, v_SGK: Tensor, *ends: list[int]) -> Tensor:
        q, k, v = (native_causal.readable(x) for x in (q_THK, k_SGK, v_SGK))
        out_THK, lse_HT = native_causal.attention(q, k, v, *ends)
        ctx.save_for_backward(q, k, v, out_THK, lse_HT)
        ctx.ends = ends
        return out_THK

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out_THK, lse_HT = ctx.saved_tensors
        query_ends, key_ends = ctx.ends
        made = native_causal.gradient(q, k, v, out_THK, lse_HT, query_ends, key_ends, grads[0])
        return (*made, None, None)
