"""The products of FP8 training: what a backend computes, and their place in autograd.

Forward: x in tiles of 1 × 128, w in blocks of 128 × 128. Gradient of x: dy in tiles of 1 × 128.
Gradient of w: dy and x, quantised again from high precision, in tiles of 128 tokens × 1 channel.
Sums are float32, results bfloat16.
Legend: M tokens · R rows sorted by expert · K inputs · N outputs · E experts · D hidden · F expert
width.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops.experts import Groups
from ...ops.fp8_tiles import Scales
from ...ops.grouped import swiglu_gradient
from .weights import Fp8Weight


class Products(Protocol):
    """A backend. It takes bfloat16 rows, quantises them, and gives bfloat16.

    `groups` are the borders of experts among rows (`ops.experts.Groups`). Any number of rows is
    legal, 0 too: a backend whose kernels need multiples of 16 pads with zero rows, which is exact.

    `reads_transposed`: the gradient of x is computed from `w.transposed()`, which is kept unless
    `train.fp8_transpose_on_demand`.
    """

    name: str
    scales: Scales
    reads_transposed: bool

    def linear(self, x_MK: Tensor, w: Fp8Weight) -> Tensor:
        """y_MN = x · wᵀ."""

    def linear_dgrad(self, dy_MN: Tensor, w: Fp8Weight) -> Tensor:
        """dx_MK = dy · w."""

    def linear_wgrad(self, dy_MN: Tensor, x_MK: Tensor) -> Tensor:
        """dw_NK = dyᵀ · x."""

    def grouped(self, x_RK: Tensor, w: Fp8Weight, groups: Groups) -> Tensor:
        """y_RN: each expert's rows times its weight, transposed."""

    def grouped_dgrad(self, dy_RN: Tensor, w: Fp8Weight, groups: Groups) -> Tensor:
        """dx_RK of `grouped`."""

    def grouped_wgrad(self, dy_RN: Tensor, x_RK: Tensor, groups: Groups) -> Tensor:
        """dw_ENK of `grouped`; 0 for an expert without rows."""


class Linear(torch.autograd.Function):
    """`apply(x_MK, weight_NK, w, products)`: y_MN; the gradient goes to the parameter `weight`."""

    @staticmethod
    def forward(
        ctx: Any, x_MK: Tensor, weight_NK: Tensor, w: Fp8Weight, products: Products
    ) -> Tensor:
        ctx.save_for_backward(x_MK)
        ctx.w, ctx.products, ctx.dtype = w, products, weight_NK.dtype
        return products.linear(x_MK, w)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        (x_MK,), products = ctx.saved_tensors, ctx.products
        dy_MN = grads[0].contiguous()
        dx_MK = products.linear_dgrad(dy_MN, ctx.w) if ctx.needs_input_grad[0] else None
        dw_NK = None
        if ctx.needs_input_grad[1]:
            dw_NK = products.linear_wgrad(dy_MN, x_MK).to(ctx.dtype)
        return dx_MK, dw_NK, None, None


class SwiGLU(torch.autograd.Function):
    """`apply(x_RD, groups, gate, up, down, w_gate_up, w_down, products)`: y_RD of routed experts.

    SwiGLU itself is bfloat16, as in `ops.grouped`.
    """

    @staticmethod
    def forward(ctx: Any, x_RD: Tensor, groups: Groups, *rest: Any) -> Tensor:
        gate_EFD, _, _, w_gate_up, w_down, products = rest
        gu_R2F = products.grouped(x_RD, w_gate_up, groups)
        g_RF, u_RF = gu_R2F.chunk(2, dim=1)
        ctx.save_for_backward(x_RD, gu_R2F)
        ctx.groups, ctx.weights, ctx.products = groups, (w_gate_up, w_down), products
        ctx.dtype = gate_EFD.dtype
        return products.grouped(F.silu(g_RF).mul_(u_RF), w_down, groups)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        (x_RD, gu_R2F), groups, products = ctx.saved_tensors, ctx.groups, ctx.products
        w_gate_up, w_down = ctx.weights
        dy_RD = grads[0].contiguous()
        dh_RF = products.grouped_dgrad(dy_RD, w_down, groups)
        h_RF, dgu_R2F = swiglu_gradient(gu_R2F, dh_RF)
        dx_RD = products.grouped_dgrad(dgu_R2F, w_gate_up, groups)
        ddown = products.grouped_wgrad(dy_RD, h_RF, groups)
        dgu = products.grouped_wgrad(dgu_R2F, x_RD, groups)
        # A gradient must lie in memory as its weight does: the fused optimizer relies on it.
        dparams = (w.to(ctx.dtype).contiguous() for w in (*dgu.chunk(2, dim=1), ddown))
        return (dx_RD, None, *dparams, None, None, None)
