"""Products of FP8 tiles on a GPU: rows that are sorted by expert, or rows of one weight.

Each 128 values of the contraction are added up by the tensor cores, times the scales of both sides
added up in float32: the tensor cores alone keep too few digits. Against the emulation only the
order of additions differs.
Legend: R rows · N outputs · K inputs · E experts · P tiles of rows (`tiles.Tiles`).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..formats import FP8_BLOCK
from .tiles import Tiles

_TILE = FP8_BLOCK


def product(
    x: tuple[Tensor, Tensor], w: tuple[Tensor, Tensor], tiles: Tiles, dtype: torch.dtype
) -> Tensor:
    """y_RN: each row times the weight of its expert, transposed; 0 for rows without an expert.

    `x` is what `quantise_rows` makes of x_RK, `w` what `quantise_blocks` makes of w_ENK.
    """
    (x_RK, inv_RT), (w_ENK, inv_ENT) = x, w
    (R, K), N = x_RK.shape, w_ENK.shape[1]
    y_RN = torch.empty((R, N), dtype=dtype, device=x_RK.device)
    if y_RN.numel():
        _product[(triton.cdiv(N, _TILE) * len(tiles),)](
            x_RK,
            x_RK.stride(0),
            inv_RT,
            *inv_RT.stride(),
            w_ENK,
            *w_ENK.stride()[:2],
            inv_ENT,
            *inv_ENT.stride(),
            y_RN,
            tiles.start_P,
            tiles.end_P,
            tiles.expert_P,
            N,
            K,
            tiles.experts,
            num_warps=8,
            num_stages=3,
        )
    return y_RN


def weight_gradient(
    dy: tuple[Tensor, Tensor], x: tuple[Tensor, Tensor], tiles: Tiles, dtype: torch.dtype
) -> Tensor:
    """dw_ENK of `product`; 0 for an expert without rows.

    Both are what `quantise_columns` makes of the rows with the same `tiles`.
    """
    (dy_NS, dy_inv_PN), (x_KS, x_inv_PK) = dy, x
    N, K = len(dy_NS), len(x_KS)
    dw_ENK = torch.empty((tiles.experts, N, K), dtype=dtype, device=x_KS.device)
    if dw_ENK.numel():
        _weight_gradient[(triton.cdiv(N, _TILE), triton.cdiv(K, _TILE), tiles.experts)](
            dy_NS,
            dy_NS.stride(0),
            dy_inv_PN,
            x_KS,
            x_KS.stride(0),
            x_inv_PK,
            dw_ENK,
            tiles.first_E1,
            N,
            K,
            num_warps=8,
            num_stages=3,
        )
    return dw_ENK


# ---- kernels -----------------------------------------------------------------------------------


@triton.jit
def _product(
    x_ptr: tl.tensor,
    x_row: tl.tensor,
    inv_x_ptr: tl.tensor,
    inv_x_row: tl.tensor,
    inv_x_tile: tl.tensor,
    w_ptr: tl.tensor,
    w_expert: tl.tensor,
    w_row: tl.tensor,
    inv_w_ptr: tl.tensor,
    inv_w_expert: tl.tensor,
    inv_w_row: tl.tensor,
    inv_w_tile: tl.tensor,
    y_ptr: tl.tensor,
    start_ptr: tl.tensor,
    end_ptr: tl.tensor,
    expert_ptr: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    E: tl.tensor,
) -> None:
    blocks = tl.cdiv(N, 128)
    tile, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    start, end = tl.load(start_ptr + tile), tl.load(end_ptr + tile)
    if start >= end:
        return
    expert = tl.load(expert_ptr + tile).to(tl.int64)
    row = start + tl.arange(0, 128)
    column = block * 128 + tl.arange(0, 128)
    inside = (row < end)[:, None] & (column < N)[None, :]
    y_at = y_ptr + row.to(tl.int64)[:, None] * N + column[None, :]
    sum = tl.zeros((128, 128), tl.float32)
    if expert < E:
        inner = tl.arange(0, 128)
        x_at = x_ptr + row.to(tl.int64)[:, None] * x_row + inner[None, :]
        w_at = w_ptr + expert * w_expert + column.to(tl.int64)[None, :] * w_row + inner[:, None]
        inv_x_at = inv_x_ptr + row * inv_x_row
        inv_w_at = inv_w_ptr + expert * inv_w_expert + block * inv_w_row
        for k in range(0, tl.cdiv(K, 128)):
            left = inner < K - k * 128
            x = tl.load(x_at + k * 128, mask=(row < end)[:, None] & left[None, :], other=0.0)
            w = tl.load(w_at + k * 128, mask=left[:, None] & (column < N)[None, :], other=0.0)
            inv_x = tl.load(inv_x_at + k * inv_x_tile, mask=row < end, other=0.0)
            inv_w = tl.load(inv_w_at + k * inv_w_tile)
            sum += tl.dot(x, w) * (inv_x * inv_w)[:, None]
    tl.store(y_at, sum.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _weight_gradient(
    dy_ptr: tl.tensor,
    dy_column: tl.tensor,
    inv_dy_ptr: tl.tensor,
    x_ptr: tl.tensor,
    x_column: tl.tensor,
    inv_x_ptr: tl.tensor,
    dw_ptr: tl.tensor,
    first_ptr: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
) -> None:
    expert = tl.program_id(2)
    n = (tl.program_id(0) * 128 + tl.arange(0, 128)).to(tl.int64)
    k = (tl.program_id(1) * 128 + tl.arange(0, 128)).to(tl.int64)
    inner = tl.arange(0, 128)
    dy_at = dy_ptr + n[:, None] * dy_column + inner[None, :]
    x_at = x_ptr + k[None, :] * x_column + inner[:, None]
    sum = tl.zeros((128, 128), tl.float32)
    for tile in range(tl.load(first_ptr + expert), tl.load(first_ptr + expert + 1)):
        dy = tl.load(dy_at + tile * 128, mask=(n < N)[:, None], other=0.0)
        x = tl.load(x_at + tile * 128, mask=(k < K)[None, :], other=0.0)
        inv_dy = tl.load(inv_dy_ptr + tile * N + n, mask=n < N, other=0.0)
        inv_x = tl.load(inv_x_ptr + tile * K + k, mask=k < K, other=0.0)
        sum += tl.dot(dy, x) * inv_dy[:, None] * inv_x[None, :]
    at = dw_ptr + (expert.to(tl.int64) * N + n[:, None]) * K + k[None, :]
    tl.store(at, sum.to(dw_ptr.dtype.element_ty), mask=(n < N)[:, None] & (k < K)[None, :])
