"""How long runs take: an estimate, corrected by those that ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .planned import Planned
from .results import Row

# Operations per second of one thread of a server core with AVX-512 and bfloat16 (2026-11-29).
HEAD_FLOPS_PER_S = 3.0e11
LAYER_FLOPS_PER_S = 1.5e11
# Seconds of a token in a layer with experts: their rows sorted and combined, and a share of each.
EXPERT_ROW_S, EXPERT_S = 1.0e-6, 2.0e-8


def expected_seconds(run: Planned) -> float:
    """Of all steps, on one thread."""
    flops, config = run.token_flops, run.config
    head = (flops.with_head - flops.without_head) / HEAD_FLOPS_PER_S
    each = config.num_experts_per_tok * EXPERT_ROW_S + config.num_experts * EXPERT_S
    experts = len(config.moe_layers) * each
    return run.tokens * (head + flops.without_head / LAYER_FLOPS_PER_S + experts)


def correction(runs: Iterable[Planned], rows: Mapping[str, Row]) -> float:
    """Measured seconds of the runs that ended as a multiple of the expected ones; 1 before any."""
    ended = [run for run in runs if run.name in rows and rows[run.name].status == "done"]
    expected = sum(map(expected_seconds, ended))
    return sum(rows[run.name].seconds for run in ended) / expected if expected else 1.0
