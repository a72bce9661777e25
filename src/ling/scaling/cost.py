"""How long runs take: an estimate, corrected by those that ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .planned import Planned
from .results import Row

# What a token takes on one thread of an AMD EPYC core with AVX-512 and bfloat16, 2026-11-29:
# products of the head and of layers, the rest of a layer, a routed expert of a token, and each
# expert that is there (rows are sorted by it, its weights read for few of them).
HEAD_FLOPS_PER_S, LAYER_FLOPS_PER_S = 5.6e11, 1.67e11
LAYER_S, EXPERT_ROW_S, EXPERT_S = 2.0e-6, 1.2e-6, 3.2e-8


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
