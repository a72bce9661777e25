"""Quantising to E4M3 on a GPU, bit for bit as `ops.fp8_tiles`.

In memory codes and scales are stored as products on a GPU read them: codes with the contraction
innermost, scales with it outermost.
Legend: M rows · K columns · N rows of a weight · E experts · P tiles of rows (`tiles.Tiles`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .e4m3 import TILE, has_cast, inverse, scale_of, to_e4m3
from .tiles import Tiles, one_group

_ROWS, _COLUMNS = 32, 64


def quantise_rows(x_MK: Tensor, scales: str) -> tuple[Tensor, Tensor]:
    """Codes q_MK and inverse scales [M, K/128], by tiles of 1 x 128."""
    M, K = x_MK.shape
    q_MK = torch.empty((M, K), dtype=torch.float8_e4m3fn, device=x_MK.device)
    inv_MT = x_MK.new_empty((triton.cdiv(K, TILE), M), dtype=torch.float32).t()
    if q_MK.numel():
        grid = (triton.cdiv(M, _ROWS), triton.cdiv(K, TILE))
        _rows[grid](x_MK, *x_MK.stride(), q_MK, inv_MT, M, K, **_options(x_MK, scales), ROWS=_ROWS)
    return q_MK, inv_MT


def quantise_columns(
    x_MK: Tensor, scales: str, tiles: Tiles | None = None
) -> tuple[Tensor, Tensor]:
    """Codes [K, P * 128] and inverse scales inv_PK, by tiles of up to 128 rows x 1 column.

    Rows of tile p are codes `[:, p * 128:]`, filled up with zeros, so that wherever an expert's
    rows begin a product reads whole tiles. `tiles` begin at row 0 by default; those of rows without
    an expert stay as they are in memory.
    """
    M, K = x_MK.shape
    tiles = one_group(M, x_MK.device) if tiles is None else tiles
    q_KS = x_MK.new_empty((K, len(tiles) * TILE), dtype=torch.float8_e4m3fn)
    inv_PK = x_MK.new_empty((len(tiles), K), dtype=torch.float32)
    if q_KS.numel():
        _columns[(len(tiles), triton.cdiv(K, _COLUMNS))](
            x_MK,
            *x_MK.stride(),
            q_KS,
            q_KS.stride(0),
            inv_PK,
            tiles.start_P,
            tiles.end_P,
            K,
            **_options(x_MK, scales),
            COLUMNS=_COLUMNS,
            num_warps=8,
        )
    return q_KS, inv_PK


def quantise_blocks(w_NK: Tensor, scales: str) -> tuple[Tensor, Tensor]:
    """Codes and inverse scales [N/128, K/128], by blocks of 128 x 128; both with the leading
    dimensions of the weight."""
    *lead, N, K = w_NK.shape
    w_ENK = w_NK.reshape(math.prod(lead), N, K)
    tiles_N, tiles_K = triton.cdiv(N, TILE), triton.cdiv(K, TILE)
    q_ENK = torch.empty(w_ENK.shape, dtype=torch.float8_e4m3fn, device=w_NK.device)
    inv = w_NK.new_empty((len(w_ENK), tiles_N, tiles_K), dtype=torch.float32)
    if q_ENK.numel():
        _blocks[(tiles_N, tiles_K, len(w_ENK))](
            w_ENK, *w_ENK.stride(), q_ENK, inv, N, K, **_options(w_NK, scales), num_warps=8
        )
    return q_ENK.view(*lead, N, K), inv.view(*lead, tiles_N, tiles_K)


def _options(x: Tensor, scales: str) -> dict[str, Any]:
    return {"POWER_OF_TWO": scales == "power-of-two", "HAS_CAST": has_cast(x.device)}


# ---- kernels -----------------------------------------------------------------------------------


@triton.jit
def _rows(
    x_ptr: tl.tensor,
    x_row: tl.tensor,
    x_column: tl.tensor,
    q_ptr: tl.tensor,
    inv_ptr: tl.tensor,
    M: tl.tensor,
    K: tl.tensor,
    POWER_OF_TWO: tl.constexpr,
    HAS_CAST: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * 128 + tl.arange(0, 128)
    inside = (row < M)[:, None] & (column < K)[None, :]
    row_64 = row.to(tl.int64)[:, None]
    x = tl.load(x_ptr + row_64 * x_row + column[None, :] * x_column, mask=inside, other=0.0)
    x = x.to(tl.float32)
    scale = scale_of(_largest(x, 1), POWER_OF_TWO)
    tl.store(q_ptr + row_64 * K + column[None, :], to_e4m3(x * scale[:, None], HAS_CAST), inside)
    tl.store(inv_ptr + tl.program_id(1) * M + row, inverse(scale), mask=row < M)


@triton.jit
def _columns(
    x_ptr: tl.tensor,
    x_row: tl.tensor,
    x_column: tl.tensor,
    q_ptr: tl.tensor,
    q_column: tl.tensor,
    inv_ptr: tl.tensor,
    start_ptr: tl.tensor,
    end_ptr: tl.tensor,
    K: tl.tensor,
    POWER_OF_TWO: tl.constexpr,
    HAS_CAST: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    tile = tl.program_id(0).to(tl.int64)
    start, end = tl.load(start_ptr + tile), tl.load(end_ptr + tile)
    if start >= end:
        return
    inner = tl.arange(0, 128)
    row = start + inner
    column = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
    at = row.to(tl.int64)[:, None] * x_row + column[None, :] * x_column
    inside = (row < end)[:, None] & (column < K)[None, :]
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    scale = scale_of(_largest(x, 0), POWER_OF_TWO)
    q = to_e4m3(x * scale[None, :], HAS_CAST)
    at = column[None, :] * q_column + tile * 128 + inner[:, None]
    tl.store(q_ptr + at, q, mask=(column < K)[None, :])
    tl.store(inv_ptr + tile * K + column, inverse(scale), mask=column < K)


@triton.jit
def _blocks(
    w_ptr: tl.tensor,
    w_expert: tl.tensor,
    w_row: tl.tensor,
    w_column: tl.tensor,
    q_ptr: tl.tensor,
    inv_ptr: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    POWER_OF_TWO: tl.constexpr,
    HAS_CAST: tl.constexpr,
) -> None:
    expert = tl.program_id(2).to(tl.int64)
    row = (tl.program_id(0) * 128 + tl.arange(0, 128)).to(tl.int64)[:, None]
    column = (tl.program_id(1) * 128 + tl.arange(0, 128)).to(tl.int64)[None, :]
    inside = (row < N) & (column < K)
    at = expert * w_expert + row * w_row + column * w_column
    w = tl.load(w_ptr + at, mask=inside, other=0.0).to(tl.float32)
    largest = _largest(_largest(w, 1), 0)
    scale = scale_of(largest, POWER_OF_TWO)
    tl.store(q_ptr + (expert * N + row) * K + column, to_e4m3(w * scale, HAS_CAST), mask=inside)
    block = expert * tl.num_programs(0) + tl.program_id(0)
    tl.store(inv_ptr + block * tl.num_programs(1) + tl.program_id(1), inverse(scale))


@triton.jit
def _largest(x: tl.tensor, axis: tl.constexpr) -> tl.tensor:
    """Largest magnitude along an axis; a NaN is larger than any number."""
    # Without the sign, floats are ordered as their bits are.
    bits = tl.max(x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis)
    return bits.to(tl.float32, bitcast=True)
