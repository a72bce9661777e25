"""Products of bfloat16 matrices, in float32 where the processor has none of bfloat16.

Without AVX-512 torch multiplies bfloat16 numbers one by one: 1.3 GFLOP/s on a core where float32
has 88 (AMD EPYC, Zen 3). Widened, the products are the same: exact, added up in float32, rounded
once. Legend: M, N rows · K what is summed.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import reference


def widens(x: Tensor) -> bool:
    """Whether products of `x` are made in float32 and rounded."""
    return (
        x.dtype == torch.bfloat16
        and x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not _has_bfloat16()
    )


@cache
def _has_bfloat16() -> bool:
    # What torch asks itself before it hands a product of bfloat16 to oneDNN.
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def mm(a_MK: Tensor, b_KN: Tensor, out: Tensor | None = None) -> Tensor:
    """y_MN = a·b in their dtype, in `out` where it is given; without gradient where it widens."""
    if not widens(a_MK):
        return torch.mm(a_MK, b_KN) if out is None else torch.mm(a_MK, b_KN, out=out)
    y_MN = torch.mm(a_MK.float(), b_KN.float())
    return y_MN.to(a_MK.dtype) if out is None else out.copy_(y_MN)


def linear(x: Tensor, w_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """`reference.linear`: x·wᵀ + bias in `x`'s dtype, whatever the parameters are stored in."""
    if not widens(x):
        return reference.linear(x, w_NK, bias_N)
    y: Tensor = _Widened.apply(x, w_NK.to(x.dtype))
    return y if bias_N is None else y + bias_N.to(x.dtype)


class _Widened(torch.autograd.Function):
    """Keeps the operands as they are: widened ones would take twice the memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w_NK: Tensor) -> Tensor:
        ctx.save_for_backward(x, w_NK)
        return F.linear(x.float(), w_NK.float()).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, w_NK = ctx.saved_tensors
        dy = grads[0].float()
        wants_x, wants_w = ctx.needs_input_grad
        dx = (dy @ w_NK.float()).to(x.dtype) if wants_x else None
        dw = dy.flatten(0, -2).t() @ x.float().flatten(0, -2) if wants_w else None
        return dx, None if dw is None else dw.to(w_NK.dtype)
