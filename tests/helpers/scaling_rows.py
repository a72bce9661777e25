"""Results of runs that never were: from a known law, with noise that a seed decides."""

from __future__ import annotations

from typing import Any

from ling.scaling.results import Row


def row(**changes: Any) -> Row:
    """A result with plausible values; FLOPs follow from tokens unless they are given."""
    values: dict[str, Any] = {
        "run": "a",
        "family": "dense",
        "size": "m",
        "activation_ratio": 1.0,
        "granularity": None,
        "seed": 0,
        "params_total": 500_000,
        "params_active": 500_000,
        "params_active_no_head": 100_000,
        "flops_per_token": 700_000,
        "flops_per_token_with_head": 900_000,
        "tokens": 14_000_000,
        "target_flops": 1e13,
        "lr": 0.01,
        "lr_factor": 1.0,
        "batch_tokens": 4096,
        "steps": 3418,
        "loss": 4.0,
        "valid_tokens": 100_000,
        "train_loss": 4.1,
        "status": "done",
        "held_out": False,
        "seconds": 100.0,
        "commit": "abc",
        "machine": "cpu",
    } | changes
    values.setdefault("flops", float(values["flops_per_token"] * values["tokens"]))
    values.setdefault(
        "flops_with_head", float(values["flops_per_token_with_head"] * values["tokens"])
    )
    return Row(**values)
