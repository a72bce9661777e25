"""Parameters, bytes and floating-point work of a configuration, by formula."""

from __future__ import annotations

import math
from typing import Any

from ..config.model import ModelConfig
from ..ops.formats import BF16, FORMATS, by_size
from .names import tensor_specs

FLOAT32 = "float32"
"""Not a row of `ops.formats`: nothing is packed to it."""
KV_BITS = {"float32": 32, "bf16": 16, "int8": 8, "int4": 4}
"""Bits of a value in the KV cache; float32 is "bf16" beside weights in float32."""


def parameter_counts(cfg: ModelConfig) -> dict[str, int]:
    """Counts as the model cards state them (docs/concepts/model.md#parameter-counts).

    `active` counts embedding and head, `active_non_embedding` neither; `expert_bias` buffers and
    the MTP layers are outside `total` and `active`; `mtp` is one MTP layer (0 if there are no
    experts, since none can exist).
    """
    main = cfg.replace(num_nextn_predict_layers=0)
    total = inactive = 0
    for name, spec in tensor_specs(
        main.replace(
            num_experts=min(cfg.num_experts, 1),
            n_group=1,
            topk_group=1,
            num_experts_per_tok=min(cfg.num_experts_per_tok, 1),
        )
    ).items():
        size = math.prod(spec.shape)
        if name.endswith("expert_bias"):
            continue
        if name.endswith("mlp.gate.weight"):
            size *= cfg.num_experts
        if ".experts." in name:
            inactive += size * (cfg.num_experts - cfg.num_experts_per_tok)
            size *= cfg.num_experts
        total += size
    table = cfg.vocab_size * cfg.hidden_size
    embedding = table if cfg.tie_word_embeddings else 2 * table
    return {
        "total": total,
        "active": total - inactive,
        "active_non_embedding": total - inactive - embedding,
        "mtp": _mtp_layer(cfg),
    }


def _mtp_layer(cfg: ModelConfig) -> int:
    if not cfg.num_experts:
        return 0
    h = cfg.hidden_size
    attention = (cfg.q_size + 2 * cfg.kv_size) * h + h * cfg.q_size
    if cfg.use_qkv_bias:
        attention += cfg.q_size + 2 * cfg.kv_size
    if cfg.use_bias:
        attention += h
    norms = 2 * h + (2 * cfg.head_dim if cfg.use_qk_norm else 0)
    experts = 3 * h * cfg.moe_intermediate_size * cfg.num_experts + cfg.num_experts * h
    shared = 3 * h * cfg.shared_expert_width
    return attention + norms + experts + shared + 3 * h + 2 * h * h


def kv_cache_dtypes(cfg: ModelConfig) -> list[str]:
    """Types that the KV cache of this model may have, the largest first.

    int4 turns heads by a Hadamard matrix, which has a power of two of rows.
    """
    is_power_of_two = cfg.head_dim & (cfg.head_dim - 1) == 0
    return ["bf16", "int8", *(["int4"] if is_power_of_two else [])]


def kv_head_bytes(cfg: ModelConfig, dtype: str) -> int:
    """Bytes of the key or the value of one position in one kv head; `dtype` is one of `KV_BITS`.

    Integers have a float32 scale.
    """
    bits = KV_BITS[dtype]
    return cfg.head_dim * bits // 8 + (4 if bits <= 8 else 0)


def kv_bytes_per_token(cfg: ModelConfig, dtype: str = "bf16") -> int:
    """KV cache of the main layers, bytes per token of context."""
    return cfg.num_hidden_layers * 2 * cfg.num_key_value_heads * kv_head_bytes(cfg, dtype)


def flops_per_token(cfg: ModelConfig, seq_length: int) -> int:
    """Model FLOPs of one training token: 3 × forward matrix FLOPs of active parameters.

    Head and MTP included, attention scores at half (causal), recomputation not counted.
    """
    counts = parameter_counts(cfg)
    table = cfg.vocab_size * cfg.hidden_size
    k, mtp_layers = cfg.num_experts_per_tok, cfg.num_nextn_predict_layers
    one_expert = 3 * cfg.hidden_size * cfg.moe_intermediate_size
    mtp = counts["mtp"] - one_expert * (cfg.num_experts - k) + table
    matrices = counts["active_non_embedding"] + table + mtp_layers * mtp
    attention = 2 * cfg.num_cache_layers * cfg.q_size * seq_length  # q·k and p·v at half
    return 3 * (2 * matrices + attention)


def layer_flops_per_token(cfg: ModelConfig, seq_length: int) -> list[dict[str, int]]:
    """Forward FLOPs of one token in each layer, MTP layers last: of routed experts and the rest.

    Three times their sum, and a head for each prediction, are `flops_per_token`.
    """
    small = min(cfg.num_experts, 1)
    one = {"num_experts": small, "num_experts_per_tok": small, "n_group": 1, "topk_group": 1}
    layers = [
        {"experts": 0, "rest": 2 * cfg.q_size * seq_length} for _ in range(cfg.num_cache_layers)
    ]
    for name, spec in tensor_specs(cfg.replace(**one)).items():
        if not name.startswith("model.layers.") or name.endswith("expert_bias"):
            continue
        flops, layer = 2 * math.prod(spec.shape), layers[int(name.split(".")[2])]
        if ".experts." in name:
            layer["experts"] += flops * cfg.num_experts_per_tok
        else:
            layer["rest"] += flops * (cfg.num_experts if name.endswith("mlp.gate.weight") else 1)
    return layers


def stored_bytes(cfg: ModelConfig, fmt: str) -> int:
    """Bytes of all weights in a number format or "float32"; norms and routers counted as the
    rest.
    """
    counts, table = parameter_counts(cfg), cfg.vocab_size * cfg.hidden_size
    rest = counts["total"] + cfg.num_nextn_predict_layers * counts["mtp"] - table
    rest -= 0 if cfg.tie_word_embeddings else table
    if fmt == FLOAT32:
        return 4 * (rest + table * (1 if cfg.tie_word_embeddings else 2))
    form = FORMATS[fmt]
    # A tied head is a matrix of its own in the formats that store it in another shape.
    head = 0 if cfg.tie_word_embeddings and form.scale_dtype is None else table
    made = head * form.of_matrix("lm_head").stored_bytes
    made += table * (form.embedding or BF16).stored_bytes
    for name, size in _expert_counts(cfg).items():
        made += size * form.of_matrix(f".mlp.{name}.down_proj").stored_bytes
        rest -= size
    return int(made + rest * form.of_matrix(".attention.dense").stored_bytes)


def expert_bytes(cfg: ModelConfig, fmt: str) -> int:
    """Bytes of the routed experts of all layers in a number format."""
    form = FORMATS[fmt].of_matrix(".mlp.experts.down_proj")
    return int(_expert_counts(cfg)["experts"] * form.stored_bytes)


def _expert_counts(cfg: ModelConfig) -> dict[str, int]:
    """Parameters of the routed and the shared experts of all layers, MTP layers included."""
    layers = len(cfg.moe_layers)
    one = 3 * cfg.hidden_size * layers
    return {
        "experts": one * cfg.num_experts * cfg.moe_intermediate_size,
        "shared_experts": one * cfg.shared_expert_width,
    }


def describe(cfg: ModelConfig) -> dict[str, Any]:
    """What `ling inspect --json` prints."""
    counts = parameter_counts(cfg)
    names = [FLOAT32, *(f.name for f in reversed(by_size()))]
    return {
        "parameters": counts,
        "kv_bytes_per_token": kv_bytes_per_token(cfg),
        "kv_bytes_per_token_by_dtype": {
            dtype: kv_bytes_per_token(cfg, dtype) for dtype in kv_cache_dtypes(cfg)
        },
        "bytes": {name: stored_bytes(cfg, name) for name in names},
        "num_nextn_predict_layers": cfg.num_nextn_predict_layers,
        "max_position_embeddings": cfg.max_position_embeddings,
        "config": cfg.to_dict(),
    }
