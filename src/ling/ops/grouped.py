"""The experts of one layer as a single differentiable operation on tokens sorted by expert.

Autograd through a loop over `weight[e]` makes a full-size gradient for every slice, so the loop
needs a backward of its own. Legend: T tokens · A experts per token · N = T·A routed rows ·
E experts · D hidden · F expert width.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor


def place_by_expert(ids_TA: Tensor, num_experts: int, block: int) -> tuple[Tensor, list[int]]:
    """Where each of the N routed rows goes, and each expert's first row (E + 1 offsets).

    An expert's rows stay in token order and are padded to a multiple of `block`: oneDNN compiles a
    kernel per row count, so free row counts would compile anew at every step.
    """
    flat_N = ids_TA.flatten()
    counts_E = torch.bincount(flat_N, minlength=num_experts)
    ends_E = ((counts_E + block - 1) // block * block).cumsum(0)
    order_N = flat_N.sort(stable=True).indices
    sorted_N = flat_N[order_N]
    rank_N = (
        torch.arange(len(flat_N), device=flat_N.device) - (counts_E.cumsum(0) - counts_E)[sorted_N]
    )
    starts_E = torch.cat((ends_E.new_zeros(1), ends_E))
    position_N = torch.empty_like(flat_N)
    position_N[order_N] = starts_E[sorted_N] + rank_N
    return position_N, starts_E.tolist()


def scatter_rows(x_TD: Tensor, position_N: Tensor, rows: int) -> Tensor:
    """Copy each token's row to its A places among `rows` rows; the others are zero."""
    T, D = x_TD.shape
    x_ND = x_TD[:, None].expand(T, len(position_N) // max(T, 1), D).reshape(-1, D)
    return x_TD.new_zeros((rows, D)).index_copy_(0, position_N, x_ND)


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


def experts_with_rows(offsets: list[int]) -> list[tuple[int, slice]]:
    """(expert, its rows) for each expert that has any."""
    return [(e, slice(a, b)) for e, (a, b) in enumerate(pairwise(offsets)) if b > a]


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
