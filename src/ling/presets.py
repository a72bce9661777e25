"""Named model shapes: the released Ling 2.0 models and small ones for work on one machine."""

from __future__ import annotations

from .config.model import ModelConfig
from .errors import UsageError
from .text import nearest

# What all Ling 2.0 models share (docs/concepts/model.md#configuration).
_FAMILY = {
    "routed_scaling_factor": 2.5,
    "partial_rotary_factor": 0.5,
    "mtp_loss_scaling_factor": 0.1,
}

_SHAPES: dict[str, dict[str, object]] = {
    "ling-mini-2.0": {"num_nextn_predict_layers": 1},
    "ling-flash-2.0": {
        "hidden_size": 4096,
        "intermediate_size": 9216,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "moe_intermediate_size": 1024,
    },
    "ling-1t": {
        "hidden_size": 8192,
        "intermediate_size": 18432,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "moe_intermediate_size": 2048,
        "first_k_dense_replace": 4,
    },
    # The dense model that Ling-mini is measured against (`ling bench`).
    "dense-8b": {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_experts": 0,
        "num_shared_experts": 0,
        "num_experts_per_tok": 0,
        "first_k_dense_replace": 32,
    },
    # Trains to recognisable Python in a few minutes on two cores (`ling quickstart`).
    "ling-nano": {
        "vocab_size": 4096,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "num_experts": 32,
        "num_experts_per_tok": 4,
        "n_group": 4,
        "topk_group": 2,
        "moe_intermediate_size": 128,
        "max_position_embeddings": 2048,
        "rope_theta": 10000.0,
        "num_nextn_predict_layers": 1,
        # Near 1/sqrt(hidden): 0.02 costs a narrow model its first hundred steps.
        "initializer_range": 0.05,
    },
    # Training speed against the expert loop: many small experts, where the loop hurts.
    "ling-nano-bench": {
        "vocab_size": 4096,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "n_group": 8,
        "topk_group": 4,
        "moe_intermediate_size": 64,
        "max_position_embeddings": 2048,
        "rope_theta": 10000.0,
        "num_nextn_predict_layers": 1,
    },
    # For tests: every feature of the family, small enough for milliseconds.
    "ling-tiny": {
        "vocab_size": 384,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "n_group": 4,
        "topk_group": 2,
        "moe_intermediate_size": 32,
        "max_position_embeddings": 512,
        "rope_theta": 10000.0,
        "num_nextn_predict_layers": 1,
    },
}

PRESETS = tuple(_SHAPES)


def preset(name: str) -> ModelConfig:
    """The configuration of a named shape; raises `UsageError` with the nearest known name."""
    if name not in _SHAPES:
        raise UsageError(
            f"no preset `{name}`{nearest(name, list(PRESETS))}; there are {', '.join(PRESETS)}"
        )
    shape = _SHAPES[name]
    # Released ids lie at the end of the released vocabulary; a smaller one has its own.
    small = (
        {}
        if "vocab_size" not in shape
        else dict.fromkeys(("pad_token_id", "eos_token_id", "bos_token_id"), 0)
    )
    return ModelConfig(**{**_FAMILY, **small, **shape})  # type: ignore[arg-type]
