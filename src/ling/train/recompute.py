"""Recomputation: parts of a block whose results the backward pass computes again.

Never the router: a second routing could choose other experts, and would count loads twice.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from ..model.attention import Attention
from ..model.moe import MLP, Experts, MoE


def recompute(network: nn.Module, what: str) -> None:
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
        setattr(module, "forward", partial(_again, module.forward))  # noqa: B010


def _again(forward: Any, *args: Any) -> Any:
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False)
