"""Products of rows that are sorted by expert: SwiGLU of each expert on its own rows.

Autograd through a loop over `weight[e]` makes a full-size gradient for every slice, so the loop
needs a backward of its own. Nothing here knows tokens or routing: rows come from
`experts.dispatch`, or from other ranks. Legend: R rows, sorted by expert · E experts · D hidden ·
F expert width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .experts import experts_with_rows


class _GroupedSwiGLU(torch.autograd.Function):
    """Forward and backward of `reference.swiglu`, expert by expert on contiguous rows."""

    @staticmethod
    def forward(
        ctx: Any,
        x_RD: Tensor,
        offsets: list[int],
        gate_EFD: Tensor,
        up_EFD: Tensor,
        down_EDF: Tensor,
    ) -> Tensor:
        dtype = x_RD.dtype
        # Gate and up side by side: the cast copies them anyway, and each product is done once.
        gu = torch.cat((gate_EFD.to(dtype), up_EFD.to(dtype)), dim=1)
        down = down_EDF.to(dtype)
        gu_R2F = x_RD.new_empty((len(x_RD), gu.shape[1]))
        for e, rows in experts_with_rows(offsets):
            torch.mm(x_RD[rows], gu[e].t(), out=gu_R2F[rows])
        g_RF, u_RF = gu_R2F.chunk(2, dim=1)
        h_RF = torch.nn.functional.silu(g_RF).mul_(u_RF)
        y_RD = x_RD.new_empty(x_RD.shape)
        for e, rows in experts_with_rows(offsets):
            torch.mm(h_RF[rows], down[e].t(), out=y_RD[rows])
        ctx.save_for_backward(x_RD, gu_R2F, gu, down)
        ctx.offsets, ctx.param_dtype = offsets, gate_EFD.dtype
        return y_RD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_RD, gu_R2F, gu, down = ctx.saved_tensors
        (dy_RD,) = grads
        g_RF, u_RF = gu_R2F.chunk(2, dim=1)
        sig = torch.sigmoid(g_RF)
        silu = g_RF * sig
        h_RF = silu * u_RF
        dh_RF, dx_RD = torch.empty_like(h_RF), torch.empty_like(x_RD)
        dgu, ddown = torch.zeros_like(gu), torch.zeros_like(down)
        for e, rows in experts_with_rows(ctx.offsets):
            torch.mm(dy_RD[rows], down[e], out=dh_RF[rows])
            torch.mm(dy_RD[rows].t(), h_RF[rows], out=ddown[e])
        dgu_R2F = torch.empty_like(gu_R2F)
        dg_RF, du_RF = dgu_R2F.chunk(2, dim=1)
        torch.mul(dh_RF, silu, out=du_RF)
        # d silu(g) = sig · (1 + g · (1 - sig)) = sig + silu · (1 - sig)
        torch.mul(dh_RF.mul_(u_RF), torch.addcmul(sig, silu, 1 - sig), out=dg_RF)
        for e, rows in experts_with_rows(ctx.offsets):
            torch.mm(dgu_R2F[rows], gu[e], out=dx_RD[rows])
            torch.mm(dgu_R2F[rows].t(), x_RD[rows], out=dgu[e])
        # A gradient must lie in memory as its weight does: the fused optimizer relies on it.
        dparams = (w.to(ctx.param_dtype).contiguous() for w in (*dgu.chunk(2, dim=1), ddown))
        return (dx_RD, None, *dparams)


def swiglu(
    x_RD: Tensor, offsets: list[int], gate_EFD: Tensor, up_EFD: Tensor, down_EDF: Tensor
) -> Tensor:
    """y_RD: rows `offsets[e]` to `offsets[e + 1]` through expert e, products in `x`'s dtype."""
    return _GroupedSwiGLU.apply(x_RD, offsets, gate_EFD, up_EFD, down_EDF)
