"""ctypes binding of `csrc/train_layers.cpp`: RMSNorm's gradient and rotary positions, in float32.

Legend: T tokens · H heads · K head dim · R rotary channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import KernelError
from . import native
from .native_causal import readable

STEP = 16
"""Rows of `rms_norm_gradient` are multiples of it."""


def has_kernel(*tensors: Tensor) -> bool:
    """Whether these functions take such values: float32 on a CPU, with the C++ core."""
    return all(x.dtype == torch.float32 and native.reads(x) for x in tensors)


def rms_norm_gradient(x: Tensor, weight: Tensor, dy: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(dx, dweight) of `reference.rms_norm` from the gradient of its result."""
    n, lib = x.shape[-1], native.required()
    if dy.shape != x.shape or weight.shape != (n,):
        raise KernelError(f"rows of {n} have gradients of {list(dy.shape)}")
    x, weight, dy = x.contiguous(), weight.contiguous(), dy.contiguous()
    dx, dw = torch.empty_like(x), torch.empty_like(weight)
    given = (t.data_ptr() for t in (x, weight, dy))
    made = (dx.data_ptr(), dw.data_ptr())
    native.check(lib, lib.ling_rms_norm_gradient(*given, x.numel() // n, n, eps, *made))
    return dx, dw


def rotate(x_THK: Tensor, cos_TR: Tensor, sin_TR: Tensor, *, back: bool) -> Tensor:
    """`reference.rotate`, bit for bit, or its inverse; the tables repeat their first half."""
    (T, H, K), lib, x = x_THK.shape, native.required(), readable(x_THK)
    if cos_TR.shape != sin_TR.shape or len(cos_TR) != T:
        raise KernelError(f"{T} tokens have tables of {list(cos_TR.shape)}")
    cos, sin, out_THK = cos_TR.contiguous(), sin_TR.contiguous(), x.new_empty(T, H, K)
    R = cos.shape[1]
    native.check(
        lib,
        lib.ling_rotate_heads(
            x.data_ptr(),
            x.stride(0) if T > 1 else H * K,
            *(cos.data_ptr(), sin.data_ptr(), R),
            *(T, H, K, R // 2),
            *(-1.0 if back else 1.0, out_THK.data_ptr()),
        ),
    )
    return out_THK
