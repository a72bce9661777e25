"""Transposing matrices of bytes: FP8 weights for the gradient of their input, made when needed."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS, _COLUMNS = 64, 32


def transposed(q_NK: Tensor) -> Tensor:
    """The same bytes as [K, N], row by row in memory; leading dimensions (experts) stay."""
    *lead, N, K = q_NK.shape
    q_ENK = q_NK.view(torch.uint8).reshape(math.prod(lead), N, K)
    out = torch.empty((len(q_ENK), K, N), dtype=torch.uint8, device=q_NK.device)
    if out.numel():
        grid = (triton.cdiv(N, _ROWS), triton.cdiv(K, _COLUMNS), len(q_ENK))
        _transpose[grid](q_ENK, *q_ENK.stride(), out, N, K, ROWS=_ROWS, COLUMNS=_COLUMNS)
    return out.view(q_NK.dtype).view(*lead, K, N)


@triton.jit
def _transpose(
    q_ptr: tl.tensor,
    q_expert: tl.tensor,
    q_row: tl.tensor,
    q_column: tl.tensor,
    out_ptr: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    expert = tl.program_id(2).to(tl.int64)
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
    at = expert * q_expert + row[:, None] * q_row + column[None, :] * q_column
    tile = tl.load(q_ptr + at, mask=(row < N)[:, None] & (column < K)[None, :], other=0)
    at = (expert * K + column[:, None]) * N + row[None, :]
    tl.store(out_ptr + at, tl.trans(tile), mask=(column < K)[:, None] & (row < N)[None, :])
