"""Weights of FP8 products: E4M3 values with a scale per 128 × 128, made from the parameters.

Legend: N outputs · K inputs; leading dimensions are experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...ops.fp8_tiles import Scales, quantise_weight, widened_blocks


@dataclass(frozen=True)
class Fp8Weight:
    """A quantised weight: `codes` [..., N, K] float8_e4m3fn, `inverse` [..., N128, K128] float32.

    `codes * inverse` of each block is the weight.
    """

    codes: Tensor
    inverse: Tensor

    def widened(self) -> Tensor:
        """The weight in bfloat16: exactly, where scales are powers of two."""
        return widened_blocks(self.codes, self.inverse)


class KeptWeight:
    """The FP8 copy of parameters, one below the other; made once a step, not per micro-batch."""

    def __init__(self, scales: Scales) -> None:
        self.scales = scales
        self._weight: Fp8Weight | None = None
        self._made_of: list[tuple[int, int]] = []

    def of(self, *parts: Tensor) -> Fp8Weight:
        """The copy; the same one until a part changes or `renew` is called."""
        made_of = [(p.data_ptr(), p._version) for p in parts]
        if self._weight is None or made_of != self._made_of:
            self._weight, self._made_of = quantised(parts, self.scales), made_of
        return self._weight

    def renew(self) -> None:
        """The parameters have changed, perhaps by a kernel that autograd does not see."""
        self._weight = None


@torch.no_grad()
def quantised(parts: tuple[Tensor, ...], scales: Scales) -> Fp8Weight:
    """The FP8 weight of matrices [..., N, K] one below the other (as Megatron-LM keeps gate and
    up)."""
    whole = parts[0] if len(parts) == 1 else torch.cat(parts, -2)
    return Fp8Weight(*quantise_weight(whole, scales))


def renew(network: nn.Module) -> None:
    """Have every FP8 weight of `network` made again from its parameters: a step was taken."""
    for module in network.modules():
        for kept in getattr(module, "kept_weights", ()):
            kept.renew()
