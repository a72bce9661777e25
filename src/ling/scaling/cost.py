"""How long runs take: an estimate, corrected by those that ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .planned import Planned
from .results import Row

# What a token takes on one of two busy cores of an AMD EPYC (Zen 3, AVX2) in float32, 2026-11-30:
# products of the head and of layers, the rest of a layer, a routed expert of a token, and each
# expert that is there (its weights are read and updated for few rows).
HEAD_FLOPS_PER_S, LAYER_FLOPS_PER_S = 3.6e10, 7e10
LAYER_S, EXPERT_ROW_S, EXPERT_S = 2.1e-6, 1.3e-7, 3.1e-8


def expected_seconds(run: Planned) -> float:
    """Of all steps, on one thread."""
    flops, config = run.token_flops, run.config
    products = (flops.with_head - flops.without_head) / HEAD_FLOPS_PER_S
    products += flops.without_head / LAYER_FLOPS_PER_S
    each = config.num_experts_per_tok * EXPERT_ROW_S + config.num_experts * EXPERT_S
    rest = config.num_hidden_layers * LAYER_S + len(config.moe_layers) * each
    return run.tokens * (products + rest)


def correction(runs: Iterable[Planned], rows: Mapping[str, Row]) -> float:
    """Measured seconds of the runs that ended as a multiple of the expected ones; 1 before any."""
    ended = [run for run in runs if run.name in rows and rows[run.name].status == "done"]
    expected = sum(map(expected_seconds, ended))
    return sum(rows[run.name].seconds for run in ended) / expected if expected else 1.0
