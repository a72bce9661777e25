"""The experts of one layer as a single differentiable operation on tokens sorted by expert.

Autograd through a loop over `weight[e]` makes a full-size gradient for every slice, so the loop
needs a backward of its own. Legend: T tokens · A experts per token · N = T·A routed rows ·
E experts · D hidden · F expert width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .experts import experts_with_rows, place_by_expert, scatter_rows


class _Experts(torch.autograd.Function):
    """Forward and backward of `reference.moe`, expert by expert on contiguous rows."""

    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        ids_TA: Tensor,
        weights_TA: Tensor,
        gate_EFD: Tensor,
        up_EFD: Tensor,
        down_EDF: Tensor,
    ) -> Tensor:
        dtype, (T, A) = x_TD.dtype, ids_TA.shape
        block = 64 if 64 * gate_EFD.shape[0] <= T * A else 16
        position_N, offsets = place_by_expert(ids_TA, gate_EFD.shape[0], block)
        # Gate and up side by side: the cast copies them anyway, and each product is done once.
        gu = torch.cat((gate_EFD.to(dtype), up_EFD.to(dtype)), dim=1)
        down = down_EDF.to(dtype)
        x_ND = scatter_rows(x_TD, position_N, offsets[-1])
        gu_N2F = x_ND.new_empty((len(x_ND), gu.shape[1]))
        for e, rows in experts_with_rows(offsets):
            torch.mm(x_ND[rows], gu[e].t(), out=gu_N2F[rows])
        g_NF, u_NF = gu_N2F.chunk(2, dim=1)
        h_NF = torch.nn.functional.silu(g_NF).mul_(u_NF)
        y_ND = x_ND.new_empty(x_ND.shape)
        for e, rows in experts_with_rows(offsets):
            torch.mm(h_NF[rows], down[e].t(), out=y_ND[rows])
        y_TAD = y_ND.index_select(0, position_N).view(T, A, -1)
        out_TD = torch.bmm(weights_TA[:, None].float(), y_TAD.float())[:, 0].to(dtype)
        ctx.save_for_backward(x_ND, gu_N2F, y_TAD, weights_TA, position_N, gu, down)
        ctx.offsets, ctx.param_dtype = offsets, gate_EFD.dtype
        return out_TD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, gu_N2F, y_TAD, weights_TA, position_N, gu, down = ctx.saved_tensors
        (dout_TD,) = grads
        T, A, D = y_TAD.shape
        dweights_TA = torch.bmm(y_TAD.float(), dout_TD.float()[:, :, None])[:, :, 0]
        # The gradient of y, placed by expert; padding rows stay zero and add nothing.
        dy_TAD = dout_TD[:, None] * weights_TA[:, :, None].to(dout_TD.dtype)
        dy_ND = torch.zeros_like(x_ND).index_copy_(0, position_N, dy_TAD.view(T * A, D))
        g_NF, u_NF = gu_N2F.chunk(2, dim=1)
        sig = torch.sigmoid(g_NF)
        silu = g_NF * sig
        h_NF = silu * u_NF
        dh_NF, dx_ND = torch.empty_like(h_NF), torch.empty_like(x_ND)
        dgu, ddown = torch.zeros_like(gu), torch.zeros_like(down)
        for e, rows in experts_with_rows(ctx.offsets):
            torch.mm(dy_ND[rows], down[e], out=dh_NF[rows])
            torch.mm(dy_ND[rows].t(), h_NF[rows], out=ddown[e])
        dgu_N2F = torch.empty_like(gu_N2F)
        dg_NF, du_NF = dgu_N2F.chunk(2, dim=1)
        torch.mul(dh_NF, silu, out=du_NF)
        # d silu(g) = sig · (1 + g · (1 - sig)) = sig + silu · (1 - sig)
        torch.mul(dh_NF.mul_(u_NF), torch.addcmul(sig, silu, 1 - sig), out=dg_NF)
        for e, rows in experts_with_rows(ctx.offsets):
            torch.mm(dgu_N2F[rows], gu[e], out=dx_ND[rows])
            torch.mm(dgu_N2F[rows].t(), x_ND[rows], out=dgu[e])
        dx_TAD = dx_ND.index_select(0, position_N).view(T, A, D)
        dparams = (w.to(ctx.param_dtype) for w in (*dgu.chunk(2, dim=1), ddown))
        return (dx_TAD.sum(1), None, dweights_TA, *dparams)


def experts(
    x_TD: Tensor,
    ids_TA: Tensor,
    weights_TA: Tensor,
    gate_EFD: Tensor,
    up_EFD: Tensor,
    down_EDF: Tensor,
) -> Tensor:
    """Differentiable `reference.moe`; dropless, products in `x`'s dtype."""
    return _Experts.apply(x_TD, ids_TA, weights_TA, gate_EFD, up_EFD, down_EDF)
