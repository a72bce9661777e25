"""What the published laws say about a budget and a shape: `ling scaling predict`."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ..config.model import ModelConfig
from . import laws


class Target(NamedTuple):
    """What is asked about: a shape, or A and G of one, or neither."""

    name: str | None = None
    config: ModelConfig | None = None
    activation_ratio: float = laws.CLAIM["activation_ratio"]
    granularity: float | None = laws.CLAIM["granularity"]


def target_of(name: str, cfg: ModelConfig) -> Target:
    """A shape with its A and G."""
    return Target(name, cfg, laws.activation_ratio(cfg), laws.granularity(cfg))


def predict(
    target: Target, seq_length: int, flops: float | None = None, tokens: float | None = None
) -> dict[str, Any]:
    """All laws at a compute; of a shape, `flops` and `tokens` give each other.

    Without a shape `flops` is needed, and `tokens` is a choice to compare with the optimum.
    """
    each = laws.token_flops(target.config, seq_length) if target.config else None
    if flops is None:
        assert each is not None
        assert tokens is not None
        flops = each.without_head * tokens
    elif each is not None:
        tokens = flops / each.without_head
    batch = laws.optimal_batch_tokens(flops)
    return {
        "flops": flops,
        "chosen": None if tokens is None else _chosen(target, flops, tokens, each),
        "optimal": {kind: laws.allocation(flops, kind)._asdict() for kind in laws.TOKENS},
        "learning_rate": laws.optimal_lr(flops),
        "batch_tokens": batch,
        "batch_sequences": batch / seq_length,
        "seq_length": seq_length,
        "fitted_flops": laws.FITTED_FLOPS,
        "is_extrapolated": not laws.was_fitted_at(flops),
        "leverage": _leverage(target, flops),
        "claim": laws.CLAIM | {"leverage": _claimed()},
        "log_bases": {"flops": 10, "granularity": 2},
    }


def _chosen(
    target: Target, flops: float, tokens: float, each: laws.TokenFlops | None
) -> dict[str, Any]:
    """The shape, or FLOPs per token that follow from tokens."""
    found = {"model": target.name, "tokens": tokens, "flops_per_token": flops / tokens}
    if each is None:
        return found
    head = {"flops_per_token_with_head": each.with_head, "flops_with_head": each.with_head * tokens}
    return found | head


def _leverage(target: Target, flops: float) -> dict[str, float] | None:
    """None of a dense shape: it is what others are compared with."""
    if target.granularity is None:
        return None
    value = laws.leverage(target.activation_ratio, target.granularity, flops)
    return {
        "activation_ratio": target.activation_ratio,
        "granularity": target.granularity,
        "value": value,
        "dense_flops": value * flops,
    }


def _claimed() -> float:
    at = laws.CLAIM
    return laws.leverage(at["activation_ratio"], at["granularity"], at["flops"])


# ---- as text -----------------------------------------------------------------------------------


def report(found: dict[str, Any]) -> str:
    """A prediction for a terminal."""
    chosen = found["chosen"]
    digits = 0 if found["batch_sequences"] > 99 else 1
    name = (chosen and chosen["model"]) or "any shape"
    lines = [
        f"{name}, {number(found['flops'])} training FLOPs (embedding and head not counted)",
        f"  {'':24} {'FLOPs per token':>15} {'tokens':>12}",
        *([_split(chosen["model"] or "as given", chosen)] if chosen else []),
        _split("optimum of experts (MoE)", found["optimal"]["moe"]),
        _split("optimum of dense models", found["optimal"]["dense"]),
        f"  learning rate  {number(found['learning_rate'])}   ({_formula(laws.LR)})",
        f"  batch          {found['batch_tokens']:,.0f} tokens, "
        f"{found['batch_sequences']:,.{digits}f} rows of {found['seq_length']:,}   "
        f"({_formula(laws.BATCH)})",
        *_head_line(chosen),
        _leverage_line(found["leverage"]),
        *_notes(found),
    ]
    return "\n".join(lines)


def number(value: float) -> str:
    """Three digits, large and small ones as `1.35e23`."""
    mantissa, _, exponent = f"{value:.3g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def _split(what: str, found: dict[str, float]) -> str:
    return f"  {what:24} {number(found['flops_per_token']):>15} {number(found['tokens']):>12}"


def _formula(law: tuple[float, float]) -> str:
    return f"{law[0]} · C^{law[1]}"


def _head_line(chosen: dict[str, Any] | None) -> list[str]:
    if not chosen or "flops_with_head" not in chosen:
        return []
    each, whole = chosen["flops_per_token_with_head"], chosen["flops_with_head"]
    return [f"  with the head  {number(each)} FLOPs per token, {number(whole)} in all"]


def _leverage_line(found: dict[str, float] | None) -> str:
    if found is None:
        return "  leverage       a dense model has none: it is what others are compared with"
    return (
        f"  leverage       {found['value']:.2f}: as good as a dense model of "
        f"{number(found['dense_flops'])} FLOPs (A = {found['activation_ratio']:.2%}, "
        f"G = {found['granularity']:g}; log10 of C, log2 of G)"
    )


def _notes(found: dict[str, Any]) -> list[str]:
    claim, (low, high) = found["claim"], found["fitted_flops"]
    lines = []
    if not math.isclose(found["flops"], claim["flops"]):
        lines.append(
            f"the claim of {claim['at_least']:g} times is for {number(claim['flops'])} FLOPs "
            f"(A = {claim['activation_ratio']:.1%}, G = {claim['granularity']:g}): there the law "
            f"gives {claim['leverage']:.2f}"
        )
    if found["is_extrapolated"]:
        lines.append(
            f"learning rate and batch were fitted from {number(low)} to {number(high)} FLOPs; this "
            "is outside, so take them as a start of a search"
        )
    if found["leverage"] is None:
        lines.append("learning rate and batch were fitted on mixtures of experts")
    return [f"note: {line}" for line in lines]
