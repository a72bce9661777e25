"""SwiGLU of experts with frozen weights and low-rank adapters, inside the grouped products.

y = W·x + scale · B·(A·x) for each of an expert's three matrices, whose gradients exist for A, B and
the rows only: none has the size of a weight. What the frozen weights are is the business of a
`FrozenExperts`. The backward pass computes A·x and the activations again.
Legend: R rows, sorted by expert · E experts · D hidden · F expert width · r rank · K inputs and N
outputs of a product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from . import grouped
from .experts import Groups, experts_with_rows
from .grouped import product, side_by_side, swiglu_gradient, weight_gradient

# `grouped_mm` takes rows of multiples of 16 bytes: 8 numbers in bfloat16.
RANK_MULTIPLE = 8


class FrozenExperts(Protocol):
    """The products of a layer's frozen experts on rows that are sorted by expert.

    Results are new tensors in the rows' dtype, which the caller may change. The same object is
    used for the backward pass, which may come after other micro-batches.
    """

    def gate_up(self, x_RD: Tensor, groups: Groups) -> Tensor:
        """gu_R2F: gate·x, and up·x beside it."""

    def gate_up_dx(self, dgu_R2F: Tensor, groups: Groups) -> Tensor:
        """dx_RD of `gate_up`."""

    def down(self, h_RF: Tensor, groups: Groups) -> Tensor:
        """y_RD."""

    def down_dx(self, dy_RD: Tensor, groups: Groups) -> Tensor:
        """dh_RF of `down`."""


@dataclass(frozen=True)
class FloatExperts:
    """`FrozenExperts` of stacked weights, cast to the rows' dtype at each use."""

    gate_EFD: Tensor
    up_EFD: Tensor
    down_EDF: Tensor

    def gate_up(self, x_RD: Tensor, groups: Groups) -> Tensor:
        """gu_R2F: gate·x, and up·x beside it."""
        return product(x_RD, side_by_side(x_RD.dtype, self.gate_EFD, self.up_EFD), groups)

    def gate_up_dx(self, dgu_R2F: Tensor, groups: Groups) -> Tensor:
        """dx_RD of `gate_up`."""
        gu_E2FD = side_by_side(dgu_R2F.dtype, self.gate_EFD, self.up_EFD)
        return product(dgu_R2F, gu_E2FD.transpose(1, 2), groups)

    def down(self, h_RF: Tensor, groups: Groups) -> Tensor:
        """y_RD."""
        return product(h_RF, self.down_EDF.to(h_RF.dtype), groups)

    def down_dx(self, dy_RD: Tensor, groups: Groups) -> Tensor:
        """dh_RF of `down`."""
        return product(dy_RD, self.down_EDF.to(dy_RD.dtype).transpose(1, 2), groups)


class LowRankExperts(NamedTuple):
    """A and B of each matrix of a layer's experts, unscaled."""

    gate_a_ErD: Tensor
    gate_b_EFr: Tensor
    up_a_ErD: Tensor
    up_b_EFr: Tensor
    down_a_ErF: Tensor
    down_b_EDr: Tensor


def swiglu(
    x_RD: Tensor,
    groups: Groups,
    base: FrozenExperts,
    low_rank: LowRankExperts | None,
    scale: float = 1.0,
) -> Tensor:
    """y_RD: each expert on its rows, in their dtype; without `low_rank` of the frozen weights
    alone, equal to the bit to what `grouped.swiglu` makes of the same weights.
    """
    if low_rank is None and isinstance(base, FloatExperts):
        weights = (base.gate_EFD, base.up_EFD, base.down_EDF)
        return grouped.swiglu(x_RD, groups, *(w.detach() for w in weights))
    return _LoRASwiGLU.apply(x_RD, groups, base, scale, *(low_rank or ()))


class _LoRASwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_RD: Tensor, groups: Groups, base: FrozenExperts, scale: float, *low_rank: Tensor
    ) -> Tensor:
        gu_R2F = base.gate_up(x_RD, groups)
        pairs = _pairs(low_rank, scale, x_RD.dtype)
        if pairs:
            pairs[0].add_to(gu_R2F, x_RD, groups)
        g_RF, u_RF = gu_R2F.chunk(2, dim=1)
        h_RF = F.silu(g_RF).mul_(u_RF)
        y_RD = base.down(h_RF, groups)
        if pairs:
            pairs[1].add_to(y_RD, h_RF, groups)
        ctx.save_for_backward(gu_R2F, *((x_RD, *low_rank) if low_rank else ()))
        ctx.groups, ctx.base, ctx.scale = groups, base, scale
        return y_RD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gu_R2F, *rest = ctx.saved_tensors
        groups, base, low_rank = ctx.groups, ctx.base, tuple(rest[1:])
        dy_RD = grads[0].contiguous()  # `grouped_mm` refuses an expanded one
        pairs = _pairs(low_rank, ctx.scale, dy_RD.dtype)
        dh_RF = base.down_dx(dy_RD, groups)
        if not pairs:
            return base.gate_up_dx(swiglu_gradient(gu_R2F, dh_RF)[1], groups), None, None, None
        gate_up, down = pairs
        down_r = down.back(dy_RD, dh_RF, groups)
        h_RF, dgu_R2F = swiglu_gradient(gu_R2F, dh_RF)
        ddown = down.gradients(dy_RD, down_r, h_RF, groups)
        dx_RD = base.gate_up_dx(dgu_R2F, groups)
        dgate_up = gate_up.gradients(dgu_R2F, gate_up.back(dgu_R2F, dx_RD, groups), rest[0], groups)
        return dx_RD, None, None, None, *_apart(low_rank, dgate_up, ddown, ctx.scale)


class _Pair(NamedTuple):
    """A and B of a product y_RN = W·x_RK, B with the scale in it; r is a multiple of 8."""

    a_ErK: Tensor
    b_ENr: Tensor

    def add_to(self, y_RN: Tensor, x_RK: Tensor, groups: Groups) -> None:
        """Add B·(A·x) to the product."""
        _add_product(y_RN, product(x_RK, self.a_ErK, groups), self.b_ENr, groups)

    def back(self, dy_RN: Tensor, dx_RK: Tensor, groups: Groups) -> Tensor:
        """The gradient of A·x, [R, r]; what it is of x is added to `dx`."""
        d_Rr = product(dy_RN, self.b_ENr.transpose(1, 2), groups)
        _add_product(dx_RK, d_Rr, self.a_ErK.transpose(1, 2), groups)
        return d_Rr

    def gradients(
        self, dy_RN: Tensor, d_Rr: Tensor, x_RK: Tensor, groups: Groups
    ) -> tuple[Tensor, Tensor]:
        """Those of A and of B with its scale."""
        ax_Rr = product(x_RK, self.a_ErK, groups)
        return weight_gradient(d_Rr, x_RK, groups), weight_gradient(dy_RN, ax_Rr, groups)


def _add_product(y_RN: Tensor, x_RK: Tensor, w_ENK: Tensor, groups: Groups) -> None:
    if isinstance(groups, Tensor):
        y_RN += product(x_RK, w_ENK, groups)
        return
    for e, rows in experts_with_rows(groups):
        y_RN[rows].addmm_(x_RK[rows], w_ENK[e].t())


def _pairs(low_rank: tuple[Tensor, ...], scale: float, dtype: torch.dtype) -> tuple[_Pair, ...]:
    """Those of gate and up as one product, and of down; none without adapters."""
    if not low_rank:
        return ()
    w = LowRankExperts(*low_rank)
    gate_up = _packed(((w.gate_a_ErD, w.gate_b_EFr), (w.up_a_ErD, w.up_b_EFr)), scale, dtype)
    return gate_up, _packed(((w.down_a_ErF, w.down_b_EDr),), scale, dtype)


def _packed(parts: tuple[tuple[Tensor, Tensor], ...], scale: float, dtype: torch.dtype) -> _Pair:
    """A's one below the other, B's on a diagonal: zeros where a part has no rank or output."""
    ranks, outs = [a.shape[1] for a, _ in parts], [b.shape[1] for _, b in parts]
    (experts, _, k), r = parts[0][0].shape, -(-sum(ranks) // RANK_MULTIPLE) * RANK_MULTIPLE
    a_ErK = parts[0][0].new_zeros((experts, r, k), dtype=dtype)
    b_ENr = parts[0][0].new_zeros((experts, sum(outs), r), dtype=dtype)
    row = column = 0
    for (a, b), rank, out in zip(parts, ranks, outs, strict=True):
        a_ErK[:, row : row + rank] = a
        b_ENr[:, column : column + out, row : row + rank] = b * scale
        row, column = row + rank, column + out
    return _Pair(a_ErK, b_ENr)


def _apart(
    low_rank: tuple[Tensor, ...],
    dgate_up: tuple[Tensor, Tensor],
    ddown: tuple[Tensor, Tensor],
    scale: float,
) -> list[Tensor]:
    """Gradients of each A and B, out of those of `_packed` ones."""
    w, found = LowRankExperts(*low_rank), []
    r_gate, width = w.gate_a_ErD.shape[1], w.gate_b_EFr.shape[1]
    places = (
        (dgate_up, slice(0, r_gate), slice(0, width)),
        (dgate_up, slice(r_gate, r_gate + w.up_a_ErD.shape[1]), slice(width, None)),
        (ddown, slice(0, w.down_a_ErF.shape[1]), slice(None)),
    )
    for (da_ErK, db_ENr), ranks, outs in places:
        found += [da_ErK[:, ranks], db_ENr[:, outs, ranks].to(w[0].dtype) * scale]
    # A gradient must lie in memory as its parameter does: the fused optimizer relies on it.
    return [d.to(p.dtype).contiguous() for d, p in zip(found, low_rank, strict=True)]
