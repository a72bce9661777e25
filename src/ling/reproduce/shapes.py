"""Shapes and data of small training runs, as settings of scales; imports nothing heavy."""

from __future__ import annotations

from typing import Any

SMALL: dict[str, Any] = {
    "model": "ling-nano",
    "overrides": {
        "vocab_size": 2048,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "moe_intermediate_size": 64,
        "moe_shared_expert_intermediate_size": 64,
    },
    "corpus_bytes": 4_000_000,
    "rows": 8,
    "seq_length": 128,
    "dtype": "bfloat16",
    "lr": 4e-3,
}
"""Settings of quick scales: 32 experts of which 4 are used, thousands of tokens a second here."""
NANO: dict[str, Any] = {
    "model": "ling-nano",
    "overrides": {},
    "corpus_bytes": None,
    "rows": 8,
    "seq_length": 512,
    "dtype": "bfloat16",
    "lr": 4e-3,
}
"""`ling-nano` as `ling pretrain nano` trains it: settings of full scales."""
