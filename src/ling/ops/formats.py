"""Number formats for weights, one row each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Format:
    """How a weight [N, K] is stored; `max_nrmse` bounds its error on normal weights."""

    name: str
    bits: float
    quantise: Callable[[Tensor], tuple[Tensor, Tensor]]
    dequantise: Callable[[Tensor, Tensor], Tensor]
    max_nrmse: float


def quantise_int8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8 per row: values -127..127 and a float32 scale; a zero row has scale 1."""
    amax = x.float().abs().amax(-1)
    scale = torch.where(amax > 0, amax / 127, 1.0)
    return (x.float() / scale[..., None]).round().clamp(-127, 127).to(torch.int8), scale


def dequantise_int8_rows(q: Tensor, scale: Tensor) -> Tensor:
    """float32 values of `quantise_int8_rows`."""
    return q.float() * scale[..., None]


def dequantise_fp8_block(q: Tensor, scale: Tensor, block: int = 128) -> Tensor:
    """float32 values of float8 [M, N] with one float32 scale for each block [block, block].

    Blocks at the lower and right border may be smaller (spec: checkpoints §3).
    """
    x = q.float()
    per_column = scale.repeat_interleave(block, 1)[:, : x.shape[1]]
    for rows, factors in zip(x.split(block), per_column, strict=True):
        rows.mul_(factors)
    return x


FORMATS = {
    "int8_channel": Format("int8_channel", 8.0, quantise_int8_rows, dequantise_int8_rows, 0.01),
}


def linear_int8(x_TK: Tensor, q_NK: Tensor, scale_N: Tensor) -> Tensor:
    """Oracle of the native int8 product: rows of x quantised on the fly, exact integer sums."""
    qx_TK, scale_T = quantise_int8_rows(x_TK)
    # float64 holds every integer sum exactly.
    sums = (qx_TK.double() @ q_NK.double().t()).float()
    return sums * (scale_T[:, None] * scale_N[None])
