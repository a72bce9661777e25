"""Recomputation: parts of a block whose results the backward pass computes again.

Never the router: a second routing could choose other experts, and would count loads twice.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint

from ..model.attention import Attention
from ..model.moe import MLP, Experts, MoE
from .forward import LingForTraining
from .noise import TokenNumbers


def recompute(network: LingForTraining, what: str) -> None:
    """`what` is none, moe (routed and shared experts) or full (all MLPs and attention too)."""
    kinds = {"none": (), "moe": (Experts,), "full": (Experts, MLP, Attention)}[what]
    found = [m for m in network.modules() if isinstance(m, kinds)]
    if what == "moe":
        found += [
            m.shared_experts
            for m in network.modules()
            if isinstance(m, MoE) and m.shared_experts is not None
        ]
    for module in found:
        # The method alone: another module around it would give its weights other names.
        again = partial(_again, network.token_numbers, module.forward)
        setattr(module, "forward", again)  # noqa: B010


def _again(tokens: TokenNumbers, forward: Any, *args: Any) -> Any:
    same = tokens.kept(forward)
    return checkpoint(same, *args, use_reentrant=False, preserve_rng_state=False)
