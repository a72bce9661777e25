"""Auxiliary-loss-free load balancing: the expert bias follows the loads, outside of autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from ..model.ling import Ling


def updated_bias(bias_E: Tensor, counts_E: Tensor, rate: float, *, zero_mean: bool) -> Tensor:
    """The bias after one global batch.

    Experts above the mean load go down by `rate`, those below go up; `zero_mean` keeps the sum.
    Source: DeepSeek-V3 (arXiv 2412.19437) §2.1.2; Ling-V2's patch for the zero-mean variant.
    """
    counts = counts_E.float()
    offset = (counts.mean() - counts).sign()
    if zero_mean:
        offset = offset - offset.mean()
    return bias_E + rate * offset


@torch.no_grad()
def update_biases(model: Ling, counts: dict[int, Tensor], rate: float, *, zero_mean: bool) -> None:
    """Move the `expert_bias` of every layer that is here in place, after the optimizer step."""
    for layer, counts_E in counts.items():
        if model.model.layers[layer] is None:  # of another pipeline stage
            continue
        bias = model.get_buffer(f"model.layers.{layer}.mlp.gate.expert_bias")
        bias.copy_(updated_bias(bias, counts_E, rate, zero_mean=zero_mean))


def load_imbalance(counts: dict[int, Tensor]) -> float:
    """Largest over mean expert load, averaged over layers; 1 is perfect balance."""
    if not counts:
        return 1.0
    return float(torch.stack([c.max() / c.float().mean() for c in counts.values()]).mean())
