"""SwiGLU of chosen experts at inference: rows in token order, weights of all experts stacked.

Two ways to the same products: for a few rows each meets the weights of its experts, so that a
decode step reads those only; for many, rows are sorted by expert and all go through one grouped
product. Neither waits for the device. Weights are plain tensors or FP8 codes.
Legend: T tokens · A experts per token · N = T·A · E experts · D hidden · F expert width.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from . import experts, products
from .device_kernels import chosen_product, weighted_sum
from .fp8 import widen_blocks

FEW_ROWS = 64
"""Routed rows up to which picking their weights costs less than a product over all experts."""
FEW_TOKENS = 8
"""Rows that each read an FP8 matrix of their own accord; more multiply with a widened copy."""
WIDENED_EXPERTS = 32
"""Experts whose FP8 weights are widened at a time: their float32 values are temporary."""


class Stack(Protocol):
    """One matrix of every expert."""

    @property
    def experts(self) -> int:
        """E."""

    def product(self, x_RK: Tensor, ids_N: Tensor, *, gated: bool = False) -> Tensor:
        """y_NO: row n is the matrix of expert `ids_N[n]` times row n // (N / R) of x.

        With `gated` x is [R, 2K] and becomes silu(first half) · second half.
        """

    def every(self, dtype: torch.dtype) -> Tensor:
        """Those of all experts."""


class PlainStack:
    """Matrices [E, rows, columns] in a floating-point type."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    @property
    def experts(self) -> int:
        return len(self.values)

    def product(self, x_RK: Tensor, ids_N: Tensor, *, gated: bool = False) -> Tensor:
        same = self.values.dtype == x_RK.dtype
        if same and (kernel := chosen_product(x_RK.device, fp8=False)) is not None:
            return kernel(x_RK, ids_N, self.values, gated=gated)
        return _batched(x_RK, self.values.index_select(0, ids_N).to(x_RK.dtype), gated)

    def every(self, dtype: torch.dtype) -> Tensor:
        return self.values.to(dtype)


class FP8Stack:
    """Matrices in float8_e4m3fn with a float32 scale for each block of 128 x 128."""

    def __init__(self, codes: Tensor, scales: Tensor) -> None:
        self.codes, self.scales = codes, scales

    @property
    def experts(self) -> int:
        return len(self.codes)

    def product(self, x_RK: Tensor, ids_N: Tensor, *, gated: bool = False) -> Tensor:
        if (kernel := chosen_product(x_RK.device, fp8=True)) is not None:
            return kernel(x_RK, ids_N, self.codes, self.scales, gated=gated)
        # Bytes are picked: not every device picks among float8 values.
        codes = self.codes.view(torch.uint8).index_select(0, ids_N).view(torch.float8_e4m3fn)
        scales = self.scales.index_select(0, ids_N)
        return _batched(x_RK, widen_blocks(codes, scales, x_RK.dtype), gated)

    def every(self, dtype: torch.dtype) -> Tensor:
        out = torch.empty(self.codes.shape, dtype=dtype, device=self.codes.device)
        for a in range(0, len(out), WIDENED_EXPERTS):
            some = slice(a, a + WIDENED_EXPERTS)
            out[some] = widen_blocks(self.codes[some], self.scales[some], dtype)
        return out


def chosen_swiglu(
    x_TD: Tensor, ids_TA: Tensor, weights_TA: Tensor, gate_up: Stack, down: Stack
) -> Tensor:
    """Weighted sum of each token's experts, added over A in float32: out_TD.

    `gate_up` has the rows of gate above those of up, [E, 2F, D].
    """
    few = ids_TA.numel() <= FEW_ROWS
    y_TAD = (_picked if few else _grouped)(x_TD, ids_TA, gate_up, down)
    return weighted_sum(y_TAD, weights_TA)


def fp8_linear(x_TK: Tensor, codes_OK: Tensor, scales: Tensor) -> Tensor:
    """x times a transposed FP8 matrix with a scale for each block of 128 x 128, in x's type."""
    if len(x_TK) <= FEW_TOKENS:
        kernel = chosen_product(x_TK.device, fp8=True)
        if kernel is not None:
            ids_T = torch.zeros(len(x_TK), dtype=torch.int64, device=x_TK.device)
            return kernel(x_TK, ids_T, codes_OK[None], scales[None])
    return products.linear(x_TK, widen_blocks(codes_OK, scales, x_TK.dtype))


def _picked(x_TD: Tensor, ids_TA: Tensor, gate_up: Stack, down: Stack) -> Tensor:
    ids_N = ids_TA.flatten()
    gu_N2F = gate_up.product(x_TD, ids_N)
    return down.product(gu_N2F, ids_N, gated=True).unflatten(0, ids_TA.shape)


def _batched(x_RK: Tensor, w_NOK: Tensor, gated: bool) -> Tensor:
    x_RK = _silu_product(x_RK) if gated else x_RK
    x_NK = x_RK.repeat_interleave(len(w_NOK) // len(x_RK), 0)
    return torch.bmm(w_NOK, x_NK[..., None])[..., 0]


def _grouped(x_TD: Tensor, ids_TA: Tensor, gate_up: Stack, down: Stack) -> Tensor:
    slots = experts.sort_by_expert(ids_TA, gate_up.experts, 1)
    ends_E = slots.starts_E1[1:].to(torch.int32)
    x_RD, dtype = experts.dispatch(x_TD, slots), x_TD.dtype
    gu_R2F = F.grouped_mm(x_RD, gate_up.every(dtype).transpose(1, 2), offs=ends_E)
    y_RD = F.grouped_mm(_silu_product(gu_R2F), down.every(dtype).transpose(1, 2), offs=ends_E)
    return y_RD.index_select(0, slots.slot_N).unflatten(0, ids_TA.shape)


def _silu_product(gu: Tensor) -> Tensor:
    """silu(gate) · up, of values that have gate in the first half of dimension 1."""
    gate, up = gu.chunk(2, dim=1)
    return F.silu(gate) * up
