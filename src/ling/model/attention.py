"""Attention: fused QKV, QK-norm, partial rotary; who attends to what is an argument.

Legend: T tokens · D hidden · H query heads · G kv heads · K head dim · R rotary channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config.model import ModelConfig
from ..model import fused
from .layers import Linear, RMSNorm


class Attend(Protocol):
    """Attention over whatever the caller holds: packed sequences, or a KV cache.

    Gets normed and rotated q and k; returns out_THK. The softmax scale is 1/sqrt(K).
    """

    def __call__(self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> Tensor: ...


class DenseAttend:
    """Causal attention inside each of the packed sequences; stateless and differentiable.

    `cu_seqlens` holds the border positions, first 0 and last T.
    """

    def __init__(self, cu_seqlens: Sequence[int]) -> None:
        self.cu_seqlens = [int(c) for c in cu_seqlens]
        lengths = {b - a for a, b in zip(self.cu_seqlens, self.cu_seqlens[1:], strict=False)}
        self.row_length = lengths.pop() if len(lengths) == 1 else None

    def __call__(self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> Tensor:
        if self.row_length:
            return _sdpa(q_THK, k_TGK, v_TGK, self.row_length)
        out_THK = torch.empty_like(q_THK)
        borders = list(zip(self.cu_seqlens, self.cu_seqlens[1:], strict=False))
        parts = [_sdpa(q_THK[a:b], k_TGK[a:b], v_TGK[a:b], b - a) for a, b in borders if b > a]
        return torch.cat(parts) if parts else out_THK


def _sdpa(q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, length: int) -> Tensor:
    """Rows of `length` tokens each, batched into one call."""
    q, k, v = (x.unflatten(0, (-1, length)).transpose(1, 2) for x in (q_THK, k_TGK, v_TGK))
    gqa = q_THK.shape[1] != k_TGK.shape[1]
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=gqa)
    return out.transpose(1, 2).flatten(0, 1)


class Attention(nn.Module):
    """Grouped-query attention with per-head QK-norm before the rotary part."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.head_dim = cfg.head_dim
        self.splits = (cfg.num_attention_heads, cfg.num_key_value_heads, cfg.num_key_value_heads)
        self.query_key_value = Linear(
            cfg.hidden_size, cfg.q_size + 2 * cfg.kv_size, bias=cfg.use_qkv_bias
        )
        if cfg.use_qk_norm:
            self.query_layernorm = RMSNorm(cfg.head_dim, cfg.rms_norm_eps)
            self.key_layernorm = RMSNorm(cfg.head_dim, cfg.rms_norm_eps)
        self.use_qk_norm = cfg.use_qk_norm
        self.dense = Linear(cfg.q_size, cfg.hidden_size, bias=cfg.use_bias)

    def forward(
        self, x_TD: Tensor, rope: tuple[Tensor, Tensor], attend: Attend, layer: int
    ) -> Tensor:
        qkv = self.query_key_value(x_TD).unflatten(-1, (-1, self.head_dim))
        q_THK, k_TGK, v_TGK = qkv.split(self.splits, dim=1)
        if self.use_qk_norm:
            q_THK, k_TGK = self.query_layernorm(q_THK), self.key_layernorm(k_TGK)
        q_THK, k_TGK = fused.rotate(q_THK, *rope), fused.rotate(k_TGK, *rope)
        return self.dense(attend(layer, q_THK, k_TGK, v_TGK).flatten(1))
