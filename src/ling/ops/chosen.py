"""SwiGLU of chosen experts at inference: rows in token order, weights of all experts stacked.

Two ways to the same products: for a few rows the chosen experts' weights are picked and multiplied
in one batch, so that a decode step reads those only; for many, rows are sorted by expert and all go
through one grouped product. Neither waits for the device. Weights are plain tensors or FP8 codes.
Legend: T tokens · A experts per token · N = T·A · E experts · D hidden · F expert width.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from . import experts
from .fp8 import widen_blocks

FEW_ROWS = 64
"""Routed rows up to which picking their weights costs less than a product over all experts."""
WIDENED_EXPERTS = 32
"""Experts whose FP8 weights are widened at a time: their float32 values are temporary."""


class Stack(Protocol):
    """One matrix of every expert."""

    @property
    def experts(self) -> int:
        """E."""

    def chosen(self, ids_N: Tensor, dtype: torch.dtype) -> Tensor:
        """The matrices of these experts, one behind the other, in `dtype`."""

    def every(self, dtype: torch.dtype) -> Tensor:
        """Those of all experts."""


class PlainStack:
    """Matrices [E, rows, columns] in a floating-point type."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    @property
    def experts(self) -> int:
        return len(self.values)

    def chosen(self, ids_N: Tensor, dtype: torch.dtype) -> Tensor:
        return self.values.index_select(0, ids_N).to(dtype)

    def every(self, dtype: torch.dtype) -> Tensor:
        return self.values.to(dtype)


class FP8Stack:
    """Matrices in float8_e4m3fn with a float32 scale for each block of 128 x 128."""

    def __init__(self, codes: Tensor, scales: Tensor) -> None:
        self.codes, self.scales = codes, scales

    @property
    def experts(self) -> int:
        return len(self.codes)

    def chosen(self, ids_N: Tensor, dtype: torch.dtype) -> Tensor:
        # Bytes are picked: not every device picks among float8 values.
        codes = self.codes.view(torch.uint8).index_select(0, ids_N).view(torch.float8_e4m3fn)
        return widen_blocks(codes, self.scales.index_select(0, ids_N), dtype)

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
    return (y_TAD.float() * weights_TA[..., None]).sum(1).to(x_TD.dtype)


def _picked(x_TD: Tensor, ids_TA: Tensor, gate_up: Stack, down: Stack) -> Tensor:
    ids_N, dtype = ids_TA.flatten(), x_TD.dtype
    x_ND1 = x_TD.repeat_interleave(ids_TA.shape[1], 0)[..., None]
    h_NF1 = _silu_product(torch.bmm(gate_up.chosen(ids_N, dtype), x_ND1))
    return torch.bmm(down.chosen(ids_N, dtype), h_NF1)[..., 0].unflatten(0, ids_TA.shape)


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
