"""Casting weights to FP8: float8_e4m3fn values, one float32 scale per block of 128 x 128."""

from __future__ import annotations

import torch
from torch import Tensor

from .formats import FP8_BLOCK

E4M3_MAX = 448.0


def quantise_fp8_block(x_MN: Tensor, *, power_of_two: bool = False) -> tuple[Tensor, Tensor]:
    """Values [M, N] in float8_e4m3fn and scales [ceil(M/128), ceil(N/128)] in float32.

    `value * scale` is the weight. With `power_of_two` scales are rounded up to 2^k. An all-zero
    block has scale 1e-4 / 448. Bit for bit upstream's converter (docs/concepts/model.md#fp8).
    """
    rows, columns = x_MN.shape
    values_MN = x_MN.new_empty((rows, columns), dtype=torch.float8_e4m3fn)
    shape = (-(-rows // FP8_BLOCK), -(-columns // FP8_BLOCK))
    scales = x_MN.new_empty(shape, dtype=torch.float32)
    # A strip of 128 rows stays in the cache through all steps.
    buffer = x_MN.new_empty((min(rows, FP8_BLOCK), columns), dtype=torch.float32)
    for i, (strip, out) in enumerate(
        zip(x_MN.split(FP8_BLOCK), values_MN.split(FP8_BLOCK), strict=True)
    ):
        scales[i] = _scales(_largest_per_column(strip), power_of_two)
        per_column = scales[i].repeat_interleave(FP8_BLOCK)[:columns]
        out.copy_(buffer[: len(strip)].copy_(strip).div_(per_column))
    return values_MN, scales


def _largest_per_column(x: Tensor) -> Tensor:
    """max |x| over rows, in float32."""
    if x.dtype not in (torch.bfloat16, torch.float32):
        return x.float().abs().amax(0)
    # Without the sign, floats are ordered as their bits are, and integers reduce much faster.
    integer, mask = {
        torch.bfloat16: (torch.int16, 0x7FFF),
        torch.float32: (torch.int32, 2**31 - 1),
    }[x.dtype]
    return (x.view(integer) & mask).amax(0).view(x.dtype).float()


def _scales(largest_N: Tensor, power_of_two: bool) -> Tensor:
    padded = torch.nn.functional.pad(largest_N, (0, -len(largest_N) % FP8_BLOCK))
    scales = padded.view(-1, FP8_BLOCK).amax(1).clamp(min=1e-4) / E4M3_MAX
    if power_of_two:
        scales = torch.pow(2.0, scales.clamp(min=1e-10).log2().ceil())
    return scales


def dequantise_fp8_block(q: Tensor, scale: Tensor, block: int = FP8_BLOCK) -> Tensor:
    """float32 values of float8 [M, N] with one float32 scale for each block [block, block].

    Blocks at the lower and right border may be smaller (docs/concepts/model.md#fp8).
    """
    x = q.float()
    per_column = scale.repeat_interleave(block, 1)[:, : x.shape[1]]
    for rows, factors in zip(x.split(block), per_column, strict=True):
        rows.mul_(factors)
    return x


def widen_blocks(q_MN: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Values in `dtype` of float8 [..., M, N] with a float32 scale for each block of 128 x 128.

    The values of `dequantise_fp8_block`, rounded once; any device, and no wait for it.
    """
    rows, columns = q_MN.shape[-2:]
    scales = scales.repeat_interleave(FP8_BLOCK, -1)[..., :columns]
    if rows % FP8_BLOCK == 0:
        blocks = q_MN.float().unflatten(-2, (-1, FP8_BLOCK))
        return (blocks * scales[..., None, :]).flatten(-3, -2).to(dtype)
    scales = scales.repeat_interleave(FP8_BLOCK, -2)[..., :rows, :]
    return (q_MN.float() * scales).to(dtype)
