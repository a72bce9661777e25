"""The leaves of the network: a linear map and RMSNorm that compute in the activations' dtype."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..model import fused
from ..ops import products


class Linear(nn.Linear):
    """`nn.Linear` whose float32 parameters are cast at use, so autocast is not needed.

    With `Experts.multiply` the only multiplication by weights that a rule of `model.swap` replaces.
    """

    def forward(self, input: Tensor) -> Tensor:  # the name is torch's
        return products.linear(input, self.weight, self.bias)


class RMSNorm(nn.Module):
    """RMSNorm over the last dimension (docs/concepts/model.md#rmsnorm)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return fused.rms_norm(x, self.weight, self.eps)
