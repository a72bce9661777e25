"""FP8 products from bfloat16 or float32 ones, on any device.

Legend: M tokens · R rows sorted by expert · K inputs · N outputs · E experts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...ops import fp8_tiles, grouped, products
from ...ops.experts import Groups, experts_with_rows
from ...ops.formats import FP8_BLOCK
from ...ops.fp8_tiles import POWER_OF_TWO, Scales
from .weights import Fp8Weight

Product = Callable[[Tensor, Fp8Weight], Tensor]


def borders(groups: Groups) -> list[int]:
    """`groups` as E + 1 numbers; on a GPU this waits for it."""
    return groups if isinstance(groups, list) else [0, *groups.tolist()]


class RoundedProducts:
    """Scales that are powers of two: widened values are bfloat16, so its product is exact.

    It adds up in float32, as the products of a GPU do.
    """

    name = "emulation"
    scales: Scales = POWER_OF_TWO
    reads_transposed = False

    def linear(self, x_MK: Tensor, w: Fp8Weight) -> Tensor:
        return products.mm(fp8_tiles.rounded_rows(x_MK), w.widened().t())

    def linear_dgrad(self, dy_MN: Tensor, w: Fp8Weight) -> Tensor:
        return products.mm(fp8_tiles.rounded_rows(dy_MN), w.widened())

    def linear_wgrad(self, dy_MN: Tensor, x_MK: Tensor) -> Tensor:
        return products.mm(fp8_tiles.rounded_columns(dy_MN).t(), fp8_tiles.rounded_columns(x_MK))

    def grouped(self, x_RK: Tensor, w: Fp8Weight, groups: Groups) -> Tensor:
        return grouped.product(fp8_tiles.rounded_rows(x_RK), w.widened(), groups)

    def grouped_dgrad(self, dy_RN: Tensor, w: Fp8Weight, groups: Groups) -> Tensor:
        return grouped.product(fp8_tiles.rounded_rows(dy_RN), w.widened().transpose(1, 2), groups)

    def grouped_wgrad(self, dy_RN: Tensor, x_RK: Tensor, groups: Groups) -> Tensor:
        dy, x = (fp8_tiles.rounded_columns(t, borders(groups)) for t in (dy_RN, x_RK))
        return grouped.weight_gradient(dy, x, groups)


class ScaledProducts:
    """float32 scales: applied to the float32 sums over each 128, as a GPU does it; slow."""

    name = "emulation"
    scales: Scales = "float32"
    reads_transposed = False

    def linear(self, x_MK: Tensor, w: Fp8Weight) -> Tensor:
        q, inverse = fp8_tiles.quantise_rows(x_MK, self.scales)
        return _scaled(q, inverse, w.codes, _each(w.inverse, 0, len(w.codes)))

    def linear_dgrad(self, dy_MN: Tensor, w: Fp8Weight) -> Tensor:
        q, inverse = fp8_tiles.quantise_rows(dy_MN, self.scales)
        columns = w.codes.shape[1]
        return _scaled(q, inverse, w.codes.t(), _each(w.inverse.t(), 0, columns))

    def linear_wgrad(self, dy_MN: Tensor, x_MK: Tensor) -> Tensor:
        (dy, dy_inverse), (x, x_inverse) = (
            fp8_tiles.quantise_columns(t, self.scales) for t in (dy_MN, x_MK)
        )
        return _scaled(dy.t(), dy_inverse.t(), x.t(), x_inverse.t())

    def grouped(self, x_RK: Tensor, w: Fp8Weight, groups: Groups) -> Tensor:
        return self._by_expert(x_RK, w, groups, w.codes.shape[1], self.linear)

    def grouped_dgrad(self, dy_RN: Tensor, w: Fp8Weight, groups: Groups) -> Tensor:
        return self._by_expert(dy_RN, w, groups, w.codes.shape[2], self.linear_dgrad)

    def grouped_wgrad(self, dy_RN: Tensor, x_RK: Tensor, groups: Groups) -> Tensor:
        offsets = borders(groups)
        dw_ENK = x_RK.new_zeros((len(offsets) - 1, dy_RN.shape[1], x_RK.shape[1]))
        for e, rows in experts_with_rows(offsets):
            dw_ENK[e] = self.linear_wgrad(dy_RN[rows], x_RK[rows])
        return dw_ENK

    def _by_expert(
        self, x_RK: Tensor, w: Fp8Weight, groups: Groups, width: int, of: Product
    ) -> Tensor:
        y_RN = x_RK.new_empty((len(x_RK), width))
        for e, rows in experts_with_rows(borders(groups)):
            y_RN[rows] = of(x_RK[rows], Fp8Weight(w.codes[e], w.inverse[e]))
        return y_RN


def _each(inverse: Tensor, dim: int, size: int) -> Tensor:
    """A scale for each row from those of blocks."""
    return inverse.repeat_interleave(FP8_BLOCK, dim).narrow(dim, 0, size)


def _scaled(a_MK: Tensor, a_inverse: Tensor, b_NK: Tensor, b_inverse: Tensor) -> Tensor:
    """a · bᵀ in bfloat16, of values with scales [rows, K128]."""
    y_MN = torch.zeros((len(a_MK), len(b_NK)), device=a_MK.device)
    for i in range(a_inverse.shape[1]):
        a, b = (t[:, i * FP8_BLOCK : (i + 1) * FP8_BLOCK].float() for t in (a_MK, b_NK))
        y_MN += (a @ b.t()) * a_inverse[:, i, None] * b_inverse[None, :, i]
    return y_MN.to(torch.bfloat16)
