"""A model's configuration at contexts that it was not trained for."""

from __future__ import annotations

from typing import Any

from .model import ModelConfig


def trained_length(cfg: ModelConfig) -> int:
    """Positions of training: those that YaRN stretches, where the configuration has it."""
    scaling = cfg.rope_scaling or {}
    return int(scaling.get("original_max_position_embeddings") or cfg.max_position_embeddings)


def yarn_scaling(cfg: ModelConfig, factor: float) -> dict[str, Any]:
    """`rope_scaling` that stretches the positions of training by `factor`.

    What else a configuration with YaRN says of it stays.
    """
    before = {k: v for k, v in (cfg.rope_scaling or {}).items() if k != "type"}
    return {
        **before,
        "rope_type": "yarn",
        "factor": float(factor),
        "original_max_position_embeddings": trained_length(cfg),
    }


def stretched(cfg: ModelConfig, length: int, factor: float | None = None) -> dict[str, Any]:
    """Fields of config.json to change so that `length` tokens are accepted.

    With a YaRN `factor`, or, where it is None, the scaling that the configuration has; 1 turns it
    off, and positions beyond those of training are rotated as they come.
    """
    fields: dict[str, Any] = {"max_position_embeddings": max(cfg.max_position_embeddings, length)}
    if factor is not None:
        fields["rope_scaling"] = None if factor == 1 else yarn_scaling(cfg, factor)
    elif cfg.rope_scaling:  # its own positions of training, not the longer ones
        original = {"original_max_position_embeddings": trained_length(cfg)}
        fields["rope_scaling"] = {**cfg.rope_scaling, **original}
    return fields
