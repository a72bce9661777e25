"""Products with packed weights that a gradient passes through: of matrices, and of experts.

Forward they are the products of inference, so what is tuned is what is served; the backward pass
unpacks one matrix at a time and multiplies in the dtype of the gradient. Weights have none.
Legend: T tokens · R rows, sorted by expert · K inputs and N outputs of a matrix · D hidden ·
F expert width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import kernels, packing, products
from .experts import Groups, experts_with_rows
from .formats import TILE
from .packing import Packed

# Rows of a matrix that are unpacked at a time; only a head has more.
ROWS_AT_A_TIME = 16384


def product(x_TK: Tensor, w: Packed) -> Tensor:
    """y_TN = x·Wᵀ in `x`'s dtype, without gradient."""
    if x_TK.dtype == torch.bfloat16:
        return kernels.matmul_bf16(w, x_TK, [0, len(x_TK)])
    return kernels.matmul(w, x_TK.float()).to(x_TK.dtype)


def product_dx(dy_TN: Tensor, w: Packed) -> Tensor:
    """dx_TK = dy·W, in the dtype of `dy`; a large matrix in parts that are added in float32."""
    if w.rows <= ROWS_AT_A_TIME:
        return products.mm(dy_TN, unpacked(w, dy_TN.dtype))
    total_TK = dy_TN.new_zeros((len(dy_TN), w.cols), dtype=torch.float32)
    for first, part in _parts(w):
        columns = dy_TN[:, first : first + part.rows]
        total_TK += products.mm(columns, unpacked(part, dy_TN.dtype))
    return total_TK.to(dy_TN.dtype)


def unpacked(w: Packed, dtype: torch.dtype) -> Tensor:
    """w_NK in the dtype of a product."""
    return kernels.unpack_bf16(w) if dtype == torch.bfloat16 else kernels.unpack(w).to(dtype)


def _parts(w: Packed) -> Iterator[tuple[int, Packed]]:
    """(first row, rows from there on as a matrix)."""
    for first in range(0, w.rows, ROWS_AT_A_TIME):
        rows, at = min(ROWS_AT_A_TIME, w.rows - first), first // TILE
        tiles = slice(at, at + -(-rows // TILE))
        scales = None if w.scales is None else w.scales[tiles]
        yield first, Packed(w.format, rows, w.cols, w.data[tiles], scales)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TK: Tensor, w: Packed) -> Tensor:
        ctx.w = w
        return product(x_TK, w)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return product_dx(grads[0], ctx.w), None


def linear(x_TK: Tensor, w: Packed) -> Tensor:
    """`product`, differentiable in `x`."""
    return _Linear.apply(x_TK, w)


@dataclass(frozen=True)
class PackedHead:
    """Hidden states to scores and back, for the loss."""

    w: Packed

    def scores(self, hidden_TD: Tensor) -> Tensor:
        """scores_TV in the dtype of the hidden states."""
        return product(hidden_TD, self.w)

    def dx(self, dscores_TV: Tensor) -> Tensor:
        """dhidden_TD."""
        return product_dx(dscores_TV, self.w)


@dataclass(frozen=True)
class PackedExperts:
    """`grouped_lora.FrozenExperts` of two packed stacks: gate and up with their tiles in turn, and
    down."""

    gate_up_2FD: Packed
    down_DF: Packed

    def gate_up(self, x_RD: Tensor, groups: Groups) -> Tensor:
        """gu_R2F: gate·x, and up·x beside it."""
        return _product(x_RD, self.gate_up_2FD, groups, pairs=True)

    def gate_up_dx(self, dgu_R2F: Tensor, groups: Groups) -> Tensor:
        """dx_RD of `gate_up`."""
        return _product_dx(packing.in_turn(dgu_R2F), self.gate_up_2FD, groups)

    def down(self, h_RF: Tensor, groups: Groups) -> Tensor:
        """y_RD."""
        return _product(h_RF, self.down_DF, groups)

    def down_dx(self, dy_RD: Tensor, groups: Groups) -> Tensor:
        """dh_RF of `down`."""
        return _product_dx(dy_RD, self.down_DF, groups)


def _product(x_RK: Tensor, w: Packed, groups: Groups, *, pairs: bool = False) -> Tensor:
    if x_RK.dtype == torch.bfloat16:
        return kernels.matmul_bf16(w, x_RK, _borders(groups), pairs=pairs)
    y_RN = x_RK.new_empty((len(x_RK), w.rows))
    for e, rows in experts_with_rows(_borders(groups)):
        y_RN[rows] = kernels.matmul(w[e], x_RK[rows].float())
    return packing.side_by_side(y_RN) if pairs else y_RN


def _product_dx(dy_RN: Tensor, w: Packed, groups: Groups) -> Tensor:
    dx_RK = dy_RN.new_empty((len(dy_RN), w.cols))
    for e, rows in experts_with_rows(_borders(groups)):
        products.mm(dy_RN[rows], unpacked(w[e], dy_RN.dtype), out=dx_RK[rows])
    return dx_RK


def _borders(groups: Groups) -> list[int]:
    assert not isinstance(groups, Tensor), "packed weights are multiplied on the CPU"
    return groups
