"""Products of rows that are sorted by expert: SwiGLU of each expert on its own rows.

Autograd through a loop over `weight[e]` makes a full-size gradient for every slice, so the loop
needs a backward of its own. Nothing here knows tokens or routing: rows come from
`experts.dispatch`, or from other ranks. Legend: R rows, sorted by expert · E experts · D hidden ·
F expert width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import native_moe, products
from .experts import Groups, experts_with_rows


class _GroupedSwiGLU(torch.autograd.Function):
    """Forward and backward of `reference.swiglu`, each expert on its contiguous rows."""

    @staticmethod
    def forward(
        ctx: Any, x_RD: Tensor, groups: Groups, gate_EFD: Tensor, up_EFD: Tensor, down_EDF: Tensor
    ) -> Tensor:
        ctx.groups = groups
        ctx.native = native_moe.has_small_experts(x_RD, gate_EFD, up_EFD, down_EDF)
        if ctx.native and isinstance(groups, list):
            y_RD, gu_R2F = native_moe.swiglu(x_RD, groups, gate_EFD, up_EFD, down_EDF)
            ctx.save_for_backward(x_RD, gu_R2F, gate_EFD, up_EFD, down_EDF)
            return y_RD
        gu, down = _cast(x_RD.dtype, gate_EFD, up_EFD, down_EDF)
        gu_R2F = product(x_RD, gu, groups)
        g_RF, u_RF = gu_R2F.chunk(2, dim=1)
        y_RD = product(F.silu(g_RF).mul_(u_RF), down, groups)
        # The weights themselves: their casts would be kept for all layers at once.
        ctx.save_for_backward(x_RD, gu_R2F, gate_EFD, up_EFD, down_EDF)
        return y_RD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_RD, gu_R2F, *weights = ctx.saved_tensors
        if ctx.native and isinstance(ctx.groups, list):
            wanted = any(ctx.needs_input_grad[2:])
            dx_RD, *made = native_moe.swiglu_gradient(
                x_RD, ctx.groups, gu_R2F, weights, grads[0], wanted=wanted
            )
            return (dx_RD, None, *made)
        gu, down = _cast(x_RD.dtype, *weights)
        dy_RD = grads[0].contiguous()  # `grouped_mm` refuses an expanded one
        dh_RF = product(dy_RD, down.transpose(1, 2), ctx.groups)
        h_RF, dgu_R2F = swiglu_gradient(gu_R2F, dh_RF)
        dx_RD = product(dgu_R2F, gu.transpose(1, 2), ctx.groups)
        if not any(ctx.needs_input_grad[2:]):
            return dx_RD, None, None, None, None
        ddown = weight_gradient(dy_RD, h_RF, ctx.groups)
        dgu = weight_gradient(dgu_R2F, x_RD, ctx.groups)
        # A gradient must lie in memory as its weight does: the fused optimizer relies on it.
        dparams = (w.to(weights[0].dtype).contiguous() for w in (*dgu.chunk(2, dim=1), ddown))
        return (dx_RD, None, *dparams)


def swiglu_gradient(gu_R2F: Tensor, dh_RF: Tensor) -> tuple[Tensor, Tensor]:
    """h_RF = silu(g) · u again, and the gradient of g and u side by side; overwrites `dh_RF`."""
    g_RF, u_RF = gu_R2F.chunk(2, dim=1)
    sig = torch.sigmoid(g_RF)
    silu = g_RF * sig
    dgu_R2F = torch.empty_like(gu_R2F)
    dg_RF, du_RF = dgu_R2F.chunk(2, dim=1)
    torch.mul(dh_RF, silu, out=du_RF)
    # d silu(g) = sig · (1 + g · (1 - sig)) = sig + silu · (1 - sig)
    torch.mul(dh_RF.mul_(u_RF), torch.addcmul(sig, silu, 1 - sig), out=dg_RF)
    return silu * u_RF, dgu_R2F


def _cast(
    dtype: torch.dtype, gate_EFD: Tensor, up_EFD: Tensor, down_EDF: Tensor
) -> tuple[Tensor, Tensor]:
    """Gate and up side by side, so that the products of both are one; and down."""
    return side_by_side(dtype, gate_EFD, up_EFD), down_EDF.to(dtype)


def side_by_side(dtype: torch.dtype, gate_EFD: Tensor, up_EFD: Tensor) -> Tensor:
    """gu_E2FD in `dtype`: up below gate, so that the rows of a product have them side by side."""
    experts, width, hidden = gate_EFD.shape
    gu_E2FD = gate_EFD.new_empty((experts, 2 * width, hidden), dtype=dtype)
    for part, weight in zip(gu_E2FD.chunk(2, dim=1), (gate_EFD, up_EFD), strict=True):
        part.copy_(weight)
    return gu_E2FD


def product(x_RK: Tensor, w_ENK: Tensor, groups: Groups) -> Tensor:
    """y_RN: each expert's rows times its weight, transposed."""
    if isinstance(groups, Tensor):
        return F.grouped_mm(x_RK, w_ENK.transpose(1, 2), offs=groups)
    y_RN = x_RK.new_empty((len(x_RK), w_ENK.shape[1]))
    for e, rows in experts_with_rows(groups):
        products.mm(x_RK[rows], w_ENK[e].t(), out=y_RN[rows])
    return y_RN


def weight_gradient(dy_RN: Tensor, x_RK: Tensor, groups: Groups) -> Tensor:
    """dw_ENK of `product`; 0 for an expert without rows."""
    if isinstance(groups, Tensor):
        dw_ENK = F.grouped_mm(dy_RN.t(), x_RK, offs=groups)
        if _leaves_memory_as_it_is(dw_ENK):
            empty_E = groups == F.pad(groups, (1, 0))[:-1]
            dw_ENK.masked_fill_(empty_E[:, None, None], 0)
        return dw_ENK
    dw_ENK = x_RK.new_zeros((len(groups) - 1, dy_RN.shape[1], x_RK.shape[1]))
    for e, rows in experts_with_rows(groups):
        products.mm(dy_RN[rows].t(), x_RK[rows], out=dw_ENK[e])
    return dw_ENK


def _leaves_memory_as_it_is(dw_ENK: Tensor) -> bool:
    """Whether `grouped_mm` writes nothing for an expert without rows, which is known of Blackwell
    (pytorch/pytorch#172439)."""
    on_gpu = dw_ENK.device.type == "cuda"
    return on_gpu and torch.cuda.get_device_capability(dw_ENK.device) >= (10, 0)


def swiglu(
    x_RD: Tensor, groups: Groups, gate_EFD: Tensor, up_EFD: Tensor, down_EDF: Tensor
) -> Tensor:
    """y_RD: each expert on its rows of `groups`, products in `x`'s dtype.

    With a list they are a loop over experts, with a tensor one `grouped_mm`.
    """
    return _GroupedSwiGLU.apply(x_RD, groups, gate_EFD, up_EFD, down_EDF)
