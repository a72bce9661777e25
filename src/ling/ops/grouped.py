"""The experts of one layer as a single differentiable operation on tokens sorted by expert.

Autograd through a loop over `weight[e]` makes a full-size gradient for every slice, so the loop
needs a backward of its own. Legend: T tokens · A experts per token · N = T·A routed rows ·
E experts · D hidden · F expert width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def sort_by_expert(ids_TA: Tensor, num_experts: int) -> tuple[Tensor, list[int]]:
    """Order of the N routed rows by expert, and each expert's first row (E + 1 offsets).

    The sort is stable, so rows of one expert stay in token order.
    """
    flat = ids_TA.flatten()
    order_N = flat.sort(stable=True).indices
    counts = torch.bincount(flat, minlength=num_experts)
    return order_N, [0, *counts.cumsum(0).tolist()]


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
        order_N, offsets = sort_by_expert(ids_TA, gate_EFD.shape[0])
        # Gate and up side by side: the cast copies them anyway, and each product is done once.
        gu = torch.cat((gate_EFD.to(dtype), up_EFD.to(dtype)), dim=1)
        down = down_EDF.to(dtype)
        x_ND = x_TD.index_select(0, order_N // A)
        gu_N2F = x_ND.new_empty((T * A, gu.shape[1]))
        for e, rows in experts_with_rows(offsets):
            torch.mm(x_ND[rows], gu[e].t(), out=gu_N2F[rows])
        g_NF, u_NF = gu_N2F.chunk(2, dim=1)
        h_NF = torch.nn.functional.silu(g_NF).mul_(u_NF)
        y_ND = x_ND.new_empty(x_ND.shape)
        for e, rows in experts_with_rows(offsets):
            torch.mm(h_NF[rows], down[e].t(), out=y_ND[rows])
        y_TAD = torch.empty_like(y_ND).index_copy_(0, order_N, y_ND).view(T, A, -1)
        out_TD = torch.bmm(weights_TA[:, None].float(), y_TAD.float())[:, 0].to(dtype)
        ctx.save_for_backward(x_ND, gu_N2F, y_TAD, weights_TA, order_N, gu, down)
        ctx.offsets, ctx.param_dtype = offsets, gate_EFD.dtype
        return out_TD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, gu_N2F, y_TAD, weights_TA, order_N, gu, down = ctx.saved_tensors
        (dout_TD,) = grads
        T, A, D = y_TAD.shape
        dweights_TA = torch.bmm(y_TAD.float(), dout_TD.float()[:, :, None])[:, :, 0]
        # The gradient of y, in the order of the experts.
        dy_ND = dout_TD.index_select(0, order_N // A)
        dy_ND.mul_(weights_TA.flatten().index_select(0, order_N)[:, None].to(dy_ND.dtype))
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
        dx_TAD = torch.empty_like(dx_ND).index_copy_(0, order_N, dx_ND).view(T, A, D)
        dparams = (w.to(ctx.param_dtype) for w in (*dgu.chunk(2, dim=1), ddown))
        return (dx_TAD.sum(1), None, dweights_TA, *dparams)


def experts_with_rows(offsets: list[int]) -> list[tuple[int, slice]]:
    """(expert, its rows) for each expert that has any."""
    pairs = zip(offsets, offsets[1:], strict=False)
    return [(e, slice(a, b)) for e, (a, b) in enumerate(pairs) if b > a]


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
