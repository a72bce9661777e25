"""Products of a few rows with chosen matrices on a GPU, whose weights are read once and only there.

A row has the number of its matrix in memory of the GPU, so nothing waits and nothing is picked
first; FP8 codes are widened in registers.
Legend: N routed rows · A rows that share an input row · K inputs · F outputs · E matrices.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..formats import FP8_BLOCK

_OUTPUTS, _INPUTS, _COLUMNS = 16, 256, 256


def chosen_product(
    x_RK: Tensor,
    ids_N: Tensor,
    w_EFK: Tensor,
    scales: Tensor | None = None,
    *,
    gated: bool = False,
) -> Tensor:
    """y_NF: row n is matrix `ids_N[n]` times row n // A of x, where N = A · R; sums in float32.

    `scales` [E, F/128, K/128] are those of FP8 codes. With `gated` x is [R, 2K], and its first half
    becomes silu(first) · second. All of the tensors are contiguous.
    """
    N, (_, F, K) = len(ids_N), w_EFK.shape
    y_NF = x_RK.new_empty((N, F))
    _product[(N, triton.cdiv(F, _OUTPUTS))](
        x_RK.contiguous(),
        ids_N,
        w_EFK,
        w_EFK if scales is None else scales,
        y_NF,
        F,
        K,
        N // len(x_RK),
        SCALED=scales is not None,
        GATED=gated,
        BLOCK=FP8_BLOCK,
        OUTPUTS=_OUTPUTS,
        INPUTS=_INPUTS,
    )
    return y_NF


def weighted_sum(y_TAD: Tensor, weights_TA: Tensor) -> Tensor:
    """Each token's rows weighed and added in float32, then cast back: out_TD."""
    T, A, D = y_TAD.shape
    out_TD = y_TAD.new_empty((T, D))
    grid = (T, triton.cdiv(D, _COLUMNS))
    _weighted_sum[grid](y_TAD, weights_TA.contiguous(), out_TD, D, A=A, COLUMNS=_COLUMNS)
    return out_TD


@triton.jit
def _weighted_sum(
    y_ptr: tl.tensor,
    weights_ptr: tl.tensor,
    out_ptr: tl.tensor,
    D: tl.tensor,
    A: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    t, d = tl.program_id(0), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    sums = tl.zeros((COLUMNS,), tl.float32)
    for a in range(A):
        y = tl.load(y_ptr + (t * A + a) * D + d, mask=d < D, other=0.0).to(tl.float32)
        sums += y * tl.load(weights_ptr + t * A + a)
    tl.store(out_ptr + t * D + d, sums.to(out_ptr.dtype.element_ty), mask=d < D)


@triton.jit
def _product(
    x_ptr: tl.tensor,
    ids_ptr: tl.tensor,
    w_ptr: tl.tensor,
    scales_ptr: tl.tensor,
    y_ptr: tl.tensor,
    F: tl.tensor,
    K: tl.tensor,
    A: tl.tensor,
    SCALED: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
) -> None:
    n = tl.program_id(0)
    o = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    matrix = tl.load(ids_ptr + n).to(tl.int64)
    rows = (matrix * F + o)[:, None] * K
    inside = (o < F)[:, None]
    sums = tl.zeros((OUTPUTS, INPUTS), tl.float32)
    for first in range(0, K, INPUTS):
        k = first + tl.arange(0, INPUTS)
        mask = inside & (k < K)[None, :]
        if GATED:
            gate = tl.load(x_ptr + n // A * 2 * K + k, mask=k < K, other=0.0).to(tl.float32)
            up = tl.load(x_ptr + n // A * 2 * K + K + k, mask=k < K, other=0.0).to(tl.float32)
            x = (gate / (1 + tl.exp(-gate))).to(x_ptr.dtype.element_ty).to(tl.float32) * up
            x = x.to(x_ptr.dtype.element_ty).to(tl.float32)
        else:
            x = tl.load(x_ptr + n // A * K + k, mask=k < K, other=0.0).to(tl.float32)
        w = tl.load(w_ptr + rows + k[None, :], mask=mask, other=0.0).to(tl.float32)
        if SCALED:
            at = (matrix * tl.cdiv(F, BLOCK) + o // BLOCK)[:, None] * tl.cdiv(K, BLOCK)
            scale = tl.load(scales_ptr + at + (k // BLOCK)[None, :], mask=mask, other=0.0)
            # Rounded as a weight that is widened before its product.
            w = (w * scale).to(x_ptr.dtype.element_ty).to(tl.float32)
        sums += w * x[None, :]
    tl.store(y_ptr + n * F + o, tl.sum(sums, 1).to(y_ptr.dtype.element_ty), mask=o < F)
