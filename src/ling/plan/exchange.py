"""Rows between ranks of experts: how many a token needs, and which of two ways sends less."""

from __future__ import annotations

from ..config.model import ModelConfig

FLOAT32_BYTES = 4


def pays(cfg: ModelConfig, ranks: int, row_item_bytes: int) -> bool:
    """Whether one copy per rank is less than one per expert, wherever a token's experts are.

    `row_item_bytes` are those of one number of a row. Never in float32, which is for losses equal
    to those of one process: a token's experts would be added up in another order.
    """
    if row_item_bytes == FLOAT32_BYTES:
        return False
    copy = copy_bytes(cfg, row_item_bytes)
    return ranks_reached(cfg, ranks) * copy < each_bytes(cfg, row_item_bytes)


def copy_bytes(cfg: ModelConfig, row_item_bytes: int) -> int:
    """Bytes of a token's copy for one rank, forward and backward: a row there, its sum back in
    float32; once ids, weights and gradients of these."""
    row, each = cfg.hidden_size, cfg.num_experts_per_tok
    return 2 * row * (row_item_bytes + FLOAT32_BYTES) + each * (4 + 4 + 4)


def each_bytes(cfg: ModelConfig, row_item_bytes: int) -> int:
    """Bytes of a token's rows for all of its experts, there and back, forward and backward."""
    return cfg.num_experts_per_tok * 4 * cfg.hidden_size * row_item_bytes


def ranks_reached(cfg: ModelConfig, ranks: int) -> int:
    """The most ranks that a token's experts can be on, since groups limit its choice."""
    most = min(cfg.num_experts_per_tok, ranks)
    if cfg.n_group % ranks and ranks % cfg.n_group:
        return most
    return min(most, cfg.topk_group * max(1, ranks // cfg.n_group))
