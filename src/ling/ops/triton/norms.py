"""RMSNorm, and the norm and rotation of queries and keys, each in one pass on a GPU.

They round where `ops.reference` rounds: a decode step has a few rows, so each small operation of
PyTorch would cost more than its numbers.
Legend: T tokens · H heads · K head dim · R rotary channels.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`ops.reference.rms_norm` of the last dimension."""
    width = x.shape[-1]
    x = x.contiguous()
    y = torch.empty_like(x)
    block = triton.next_power_of_2(width)
    _rms_norm[(x.numel() // width,)](x, weight, y, eps, width, BLOCK=block, num_warps=8)
    return y


def norm_rotate(
    x_THK: Tensor,
    weights: tuple[Tensor, Tensor],
    split: int,
    eps: float,
    rope: tuple[Tensor, Tensor],
) -> Tensor:
    """Norm and rotation of the first heads of `x`, whose heads from `split` on have the second
    weight; cos and sin [T, R]. K is a power of two."""
    cos_TR, sin_TR = rope
    T, H, K = x_THK.shape
    out_THK = torch.empty((T, H, K), dtype=x_THK.dtype, device=x_THK.device)
    _norm_rotate[(T, H)](
        x_THK,
        x_THK.stride(0),
        *weights,
        cos_TR,
        sin_TR,
        out_THK,
        eps,
        SPLIT=split,
        HEADS=H,
        R=cos_TR.shape[-1],
        K=K,
        num_warps=1,
    )
    return out_THK


@triton.jit
def _rms_norm(
    x_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    y_ptr: tl.tensor,
    eps: tl.tensor,
    width: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    row, d = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    mask = d < width
    x = tl.load(x_ptr + row * width + d, mask=mask, other=0.0)
    h = x.to(tl.float32)
    h = h * tl.rsqrt(tl.sum(h * h, 0) / width + eps)
    weight = tl.load(weight_ptr + d, mask=mask, other=0.0).to(x.dtype).to(tl.float32)
    tl.store(
        y_ptr + row * width + d, (h.to(x.dtype).to(tl.float32) * weight).to(x.dtype), mask=mask
    )


@triton.jit
def _norm_rotate(
    x_ptr: tl.tensor,
    token_stride: tl.tensor,
    first_ptr: tl.tensor,
    second_ptr: tl.tensor,
    cos_ptr: tl.tensor,
    sin_ptr: tl.tensor,
    out_ptr: tl.tensor,
    eps: tl.tensor,
    SPLIT: tl.constexpr,
    HEADS: tl.constexpr,
    R: tl.constexpr,
    K: tl.constexpr,
) -> None:
    t, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    d = tl.arange(0, K)
    # The other channel of a pair, among the first R.
    other = tl.where(d < R // 2, d + R // 2, tl.where(d < R, d - R // 2, d))
    at = x_ptr + t * token_stride + head * K
    x, y = tl.load(at + d), tl.load(at + other)
    wide = x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, 0) / K + eps)
    first = head < SPLIT
    own = tl.where(first, tl.load(first_ptr + d), tl.load(second_ptr + d))
    others = tl.where(first, tl.load(first_ptr + other), tl.load(second_ptr + other))
    own, others = own.to(x.dtype).to(tl.float32), others.to(x.dtype).to(tl.float32)
    h = ((wide * scale).to(x.dtype).to(tl.float32) * own).to(x.dtype).to(tl.float32)
    p = ((y.to(tl.float32) * scale).to(x.dtype).to(tl.float32) * others).to(x.dtype).to(tl.float32)
    cos = tl.load(cos_ptr + t * R + d, mask=d < R, other=1.0).to(tl.float32)
    sin = tl.load(sin_ptr + t * R + d, mask=d < R, other=0.0).to(tl.float32)
    turned = (h * cos).to(x.dtype).to(tl.float32)
    across = (tl.where(d < R // 2, -p, p) * sin).to(x.dtype).to(tl.float32)
    out = tl.where(d < R, turned + across, h)
    tl.store(out_ptr + (t * HEADS + head) * K + d, out.to(x.dtype))
