"""Attention: fused QKV, QK-norm, partial rotary; who attends to what is an argument.

Legend: T tokens · D hidden · H query heads · G kv heads · K head dim · R rotary channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from ..config.model import ModelConfig
from ..model import fused
from ..ops.causal import causal_attention
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

    def __call__(self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> Tensor:
        return causal_attention(q_THK, k_TGK, v_TGK, self.cu_seqlens)


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
